// SPDX-License-Identifier: Apache-2.0

// Package shalesuite asks shaled what containerd asks its own snapshotters: containerd's test suite through containerd's
// proxy client. Every test of the suite gets a shaled of its own, on a new root.
//
//	SHALED         the program and its flags; " --root ROOT --listen SOCKET" is put behind them
//	SHALED_LOG     file that what it says is appended to
//
// The suite itself skips its test Rename, whatever the snapshotter.
package shalesuite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/snapshots"
	"github.com/containerd/containerd/snapshots/proxy"
	"github.com/containerd/containerd/snapshots/testsuite"
	"google.golang.org/grpc"
)

const patience = 60 * time.Second

// first is the first of these errors that is one.
func first(all ...error) error {
	for _, err := range all {
		if err != nil {
			return err
		}
	}
	return nil
}

// start runs a shaled and returns what stops it: by SIGTERM, within patience, with exit code 0.
func start(root, socket string) (func() error, error) {
	words := append(strings.Fields(os.Getenv("SHALED")), "--root", root, "--listen", socket)
	shaled := exec.Command(words[0], words[1:]...)
	if path := os.Getenv("SHALED_LOG"); path != "" {
		log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, err
		}
		defer log.Close()
		shaled.Stdout, shaled.Stderr = log, log
	}
	if err := shaled.Start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- shaled.Wait() }()
	stop := func() error {
		shaled.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-ended:
			return err
		case <-time.After(patience):
			shaled.Process.Kill()
			return errors.New("shaled did not stop")
		}
	}
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			return nil, fmt.Errorf("shaled did not start: %v", err)
		default:
		}
		if connection, err := net.Dial("unix", socket); err == nil {
			connection.Close()
			return stop, nil
		}
	}
	return nil, fmt.Errorf("nobody listens at the socket; stopping: %v", stop())
}

func open(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
	// A socket's name has at most 108 bytes; the suite's roots are longer than one wishes.
	dir, err := os.MkdirTemp("", "shale")
	if err != nil {
		return nil, nil, err
	}
	socket := filepath.Join(dir, "s")
	stop, err := start(root, socket)
	if err != nil {
		return nil, nil, err
	}
	client, err := grpc.Dial("unix:"+socket, grpc.WithInsecure())
	if err != nil {
		return nil, nil, first(err, stop())
	}
	end := func() error { return first(client.Close(), stop(), os.RemoveAll(dir)) }
	return proxy.NewSnapshotter(api.NewSnapshotsClient(client), "shale"), end, nil
}

func TestSuite(t *testing.T) {
	if os.Getenv("SHALED") == "" {
		t.Skip("SHALED names no program")
	}
	testsuite.SnapshotterSuite(t, "shale", open)
}

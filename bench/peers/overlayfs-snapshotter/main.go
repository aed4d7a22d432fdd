// SPDX-License-Identifier: Apache-2.0

// Serves containerd's own overlayfs snapshotter as a proxy snapshotter, so that it stands behind the same hop as shaled:
//
//	overlayfs-snapshotter ROOT SOCKET
//
// With the one option that containerd itself sets: removed trees are deleted by Cleanup. Ends on SIGTERM and SIGINT.
package main

import (
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"

	api "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/contrib/snapshotservice"
	"github.com/containerd/containerd/snapshots/overlay"
	"google.golang.org/grpc"
)

func serve(root, socket string) error {
	snapshotter, err := overlay.NewSnapshotter(root, overlay.AsynchronousRemove)
	if err != nil {
		return err
	}
	defer snapshotter.Close()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	server := grpc.NewServer()
	api.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(snapshotter))
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		<-asked
		server.Stop()
	}()
	return server.Serve(listener)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: overlayfs-snapshotter ROOT SOCKET")
		os.Exit(2)
	}
	if err := serve(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "overlayfs-snapshotter:", err)
		os.Exit(1)
	}
}

// SPDX-License-Identifier: Apache-2.0

// Pulls an image from an OCI layout directory into a running containerd, with its client library as nerdctl and the CRI
// plugin use it: the unpacker asks the snapshotter for every layer by containerd.io/snapshot.ref, and fetches layers only
// when the answer is not that they are there. (`ctr images import` and `ctr images pull` of containerd 1.6 never ask.)
//
//	pull-layout CONTAINERD-SOCKET SNAPSHOTTER LAYOUT NAME
//
// Prints one JSON object: seconds from the request to the image that is ready to run, how many layers it has and how many
// of them were fetched.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/images"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/remotes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layout is a remotes.Resolver of the first image of a directory, whatever the name.
type layout struct {
	dir     string
	fetched int32 // layers
}

func (l *layout) Resolve(_ context.Context, name string) (string, ocispec.Descriptor, error) {
	text, err := os.ReadFile(filepath.Join(l.dir, "index.json"))
	if err != nil {
		return "", ocispec.Descriptor{}, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return "", ocispec.Descriptor{}, err
	}
	if len(index.Manifests) == 0 {
		return "", ocispec.Descriptor{}, errors.New("the layout has no image")
	}
	return name, index.Manifests[0], nil
}

func (l *layout) Fetcher(context.Context, string) (remotes.Fetcher, error) {
	return remotes.FetcherFunc(func(_ context.Context, blob ocispec.Descriptor) (io.ReadCloser, error) {
		if images.IsLayerType(blob.MediaType) {
			atomic.AddInt32(&l.fetched, 1)
		}
		return os.Open(filepath.Join(l.dir, "blobs", blob.Digest.Algorithm().String(), blob.Digest.Encoded()))
	}), nil
}

func (l *layout) Pusher(context.Context, string) (remotes.Pusher, error) {
	return nil, errors.New("nothing is pushed to a layout")
}

func pull(socket, snapshotter, dir, name string) error {
	ctx := namespaces.WithNamespace(context.Background(), "default")
	client, err := containerd.New(socket)
	if err != nil {
		return err
	}
	defer client.Close()
	source := &layout{dir: dir}
	begin := time.Now()
	image, err := client.Pull(ctx, name, containerd.WithResolver(source), containerd.WithPullUnpack,
		containerd.WithPullSnapshotter(snapshotter))
	if err != nil {
		return err
	}
	seconds := time.Since(begin).Seconds()
	layers, err := image.RootFS(ctx)
	if err != nil {
		return err
	}
	if ready, err := image.IsUnpacked(ctx, snapshotter); err != nil || !ready {
		return fmt.Errorf("%s is not unpacked: %v", name, err)
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]interface{}{
		"seconds": seconds, "layers": len(layers), "fetched": source.fetched})
}

func main() {
	if len(os.Args) != 5 {
		fmt.Fprintln(os.Stderr, "usage: pull-layout CONTAINERD-SOCKET SNAPSHOTTER LAYOUT NAME")
		os.Exit(2)
	}
	if err := pull(os.Args[1], os.Args[2], os.Args[3], os.Args[4]); err != nil {
		fmt.Fprintln(os.Stderr, "pull-layout:", err)
		os.Exit(1)
	}
}

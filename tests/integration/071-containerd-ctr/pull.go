// SPDX-License-Identifier: Apache-2.0

// Command shalepull pulls an image as a kubelet's containerd does: containerd's own client unpacks it and asks the
// snapshotter for every layer by the label containerd.io/snapshot.ref, with the annotations of CRI. The registry is an OCI
// layout on disk. What is downloaded is printed, a line each: media type, digest.
//
//	shalepull ADDRESS NAMESPACE SNAPSHOTTER LAYOUT NAME
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd"
	"github.com/containerd/containerd/namespaces"
	"github.com/containerd/containerd/pkg/snapshotters"
	"github.com/containerd/containerd/remotes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const patience = 10 * time.Minute

// layout is an OCI layout's directory, as a registry with one image.
type layout string

func (l layout) Resolve(_ context.Context, ref string) (string, ocispec.Descriptor, error) {
	var index ocispec.Index
	text, err := os.ReadFile(filepath.Join(string(l), "index.json"))
	if err != nil {
		return "", ocispec.Descriptor{}, err
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return "", ocispec.Descriptor{}, err
	}
	if len(index.Manifests) != 1 {
		return "", ocispec.Descriptor{}, fmt.Errorf("%d images in the layout", len(index.Manifests))
	}
	return ref, index.Manifests[0], nil
}

func (l layout) Fetcher(context.Context, string) (remotes.Fetcher, error) { return l, nil }

func (l layout) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	fmt.Println(desc.MediaType, desc.Digest)
	return os.Open(filepath.Join(string(l), "blobs", desc.Digest.Algorithm().String(), desc.Digest.Encoded()))
}

func (l layout) Pusher(context.Context, string) (remotes.Pusher, error) {
	return nil, errors.New("this registry takes nothing")
}

func pull(address, namespace, snapshotter, from, name string) error {
	client, err := containerd.New(address)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), namespace), patience)
	defer cancel()
	_, err = client.Pull(ctx, name,
		containerd.WithResolver(layout(from)),
		containerd.WithPullSnapshotter(snapshotter),
		containerd.WithPullUnpack,
		containerd.WithImageHandlerWrapper(snapshotters.AppendInfoHandlerWrapper(name)))
	return err
}

func main() {
	if len(os.Args) != 6 {
		fmt.Fprintln(os.Stderr, "usage: shalepull ADDRESS NAMESPACE SNAPSHOTTER LAYOUT NAME")
		os.Exit(2)
	}
	if err := pull(os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
		fmt.Fprintln(os.Stderr, "shalepull:", err)
		os.Exit(1)
	}
}

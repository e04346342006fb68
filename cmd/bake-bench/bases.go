package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"path"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/bakebuild/bake/executor/executortest"
)

// The base images in the registry. The small one has a program; the large one adds a layer of 140 MB, 290 MB unpacked.
const (
	smallBase = "base:1"
	largeBase = "large:1"
)

func (b *bench) pushBases(ctx context.Context) error {
	small, err := executortest.ToolImage(b.work)
	if err != nil {
		return err
	}
	file := filepath.Join(b.work, "layer.tar.gz")
	if err := writeLayer(file, files{11_000, 290_000_000}); err != nil {
		return err
	}
	layer, err := tarball.LayerFromFile(file)
	if err != nil {
		return err
	}
	large, err := mutate.AppendLayers(small, layer)
	if err != nil {
		return err
	}
	return errors.Join(b.push(ctx, smallBase, small), b.push(ctx, largeBase, large), os.Remove(file))
}

func (b *bench) push(ctx context.Context, repository string, image v1.Image) error {
	ref, err := name.ParseReference(b.registry + "/" + repository)
	if err != nil {
		return err
	}
	return remote.Write(ref, image, remote.WithContext(ctx))
}

// writeLayer writes a tree of files as a gzip-compressed layer.
func writeLayer(file string, tree files) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	zipped := gzip.NewWriter(f)
	w := tar.NewWriter(zipped)
	folder := ""
	err = tree.each(func(name string, content []byte) error {
		if dir := path.Dir(name); dir != folder {
			folder = dir
			if err := w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return err
			}
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644,
			Size: int64(len(content))}); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	})
	return errors.Join(err, w.Close(), zipped.Close(), f.Close())
}

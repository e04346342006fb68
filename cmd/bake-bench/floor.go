package main

import (
	"context"
	"io/fs"
	"path/filepath"
	"time"
)

// floor measures the minimum work of a build with nothing to do: start, read the project, plan all targets (which is
// what bake graph does), and stat every file of the context once.
func floor(ctx context.Context, t *bake, dir string) (sample, error) {
	s, err := measure(t.command(ctx, dir, "graph"))
	if err != nil {
		return s, err
	}
	started := time.Now()
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil {
			_, err = d.Info()
		}
		return err
	})
	scan := time.Since(started)
	return s.add(sample{wall: scan, cpu: scan}), err
}

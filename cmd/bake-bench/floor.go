package main

import (
	"context"
	"io/fs"
	"path/filepath"
	"time"
)

// floor is the least that a build with nothing to do can take: to start, to read the project and plan all of its targets
// (`bake graph` does that and nothing else), and to look at every file of the context once.
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

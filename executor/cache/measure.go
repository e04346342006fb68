package cache

import (
	"fmt"
	"io/fs"
	"path/filepath"
)

// Measure counts what a layer's directory holds, its root not counted.
func Measure(dir string) (LayerMeta, error) {
	var m LayerMeta
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		m.Files++
		if d.Type().IsRegular() {
			info, err := d.Info()
			if err != nil {
				return err
			}
			m.Size += info.Size()
		}
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("measure layer: %w", err)
	}
	return m, nil
}

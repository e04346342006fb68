//go:build !windows

package config

import (
	"os"

	"github.com/google/renameio/v2"
)

// replaceFile writes a file, whole or not at all: to a temporary file that is synced and renamed.
func replaceFile(path string, content []byte, mode os.FileMode) error {
	return renameio.WriteFile(path, content, mode)
}

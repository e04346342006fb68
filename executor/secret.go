package executor

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/bakebuild/bake/config"
)

// maxSecret bounds a secret's size in bytes, as BuildKit does.
const maxSecret = 500 << 10

// ReadSecret reads a value from the file or variable that it comes from. As in BuildKit a secret without either is
// the variable of its own name, else the file.
func ReadSecret(s config.Secret) ([]byte, error) {
	if s.Src == "" {
		name := s.Env
		if name == "" {
			name = s.ID
		}
		value, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("the environment variable %s is not set", name)
		}
		return []byte(value), nil
	}
	file, err := os.Open(filepath.Clean(s.Src))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	value, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	if err == nil && len(value) > maxSecret {
		err = fmt.Errorf("it is larger than %d KiB", maxSecret>>10)
	}
	return value, err
}

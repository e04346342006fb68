package executor

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/bakebuild/bake/config"
)

// maxSecret bounds the size of a secret in bytes, as in BuildKit.
const maxSecret = 500 << 10

// ReadSecret reads the value of a secret from its file or variable. As in BuildKit, a secret with neither is the
// variable named by its id.
func ReadSecret(s config.Secret) ([]byte, error) {
	if s.Src == "" {
		name := s.Env
		if name == "" {
			name = s.ID
		}
		value, ok := os.LookupEnv(name)
		if !ok {
			return nil, fmt.Errorf("environment variable %s is not set", name)
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
		err = fmt.Errorf("larger than %d KiB", maxSecret>>10)
	}
	return value, err
}

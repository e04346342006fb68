package executor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bakebuild/bake/config"
)

// maxSecret bounds the size of a secret in bytes, as in BuildKit.
const maxSecret = 500 << 10

// ReadSecret reads the value of a secret from its variable or, if it has none, from its file.
func ReadSecret(s config.Secret) ([]byte, error) {
	if s.Env != "" {
		value, ok := os.LookupEnv(s.Env)
		if !ok {
			return nil, fmt.Errorf("environment variable %s is not set", s.Env)
		}
		return []byte(value), nil
	}
	file, err := os.Open(filepath.Clean(s.Src))
	if s.Implied && errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("neither an environment variable nor a file is named %s", s.ID)
	}
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

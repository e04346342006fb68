package embedded

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/bakebuild/bake/config"
)

// maxSecret bounds a secret's size in bytes, as BuildKit does.
const maxSecret = 500 << 10

// secret reads the value that the targets which want the step offer under id. ok is false when none offers it and the
// step can do without. Values are in no key, no log and no file of the cache.
func (n *node) secret(id string, optional bool) (value []byte, ok bool, err error) {
	for _, target := range n.step.Targets {
		for _, s := range n.b.graph.Secrets[target] {
			if s.ID == id {
				value, err := readSecret(s)
				if err != nil {
					return nil, false, fmt.Errorf("secret %s of target %s: %w", id, target, err)
				}
				return value, true, nil
			}
		}
	}
	if optional {
		return nil, false, nil
	}
	return nil, false, n.stepError(fmt.Errorf("no secret %q is given", id),
		fmt.Sprintf("pass it with --secret id=%s,src=FILE or as a secret of the target", id))
}

// readSecret reads a value from the file or variable that it comes from. As in BuildKit a secret without either is
// the variable of its own name, else the file.
func readSecret(s config.Secret) ([]byte, error) {
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

package cache

import (
	"context"
	"fmt"
	"os"

	digest "github.com/opencontainers/go-digest"
)

// Damage is one thing that a check found wrong.
type Damage struct {
	Path string
	What string
}

// Check reads every blob and entry and says what is damaged. With repair it removes that: it is made again when a build
// needs it.
func (s *Store) Check(ctx context.Context, repair bool) ([]Damage, error) {
	names, err := os.ReadDir(s.path(dirBlobs))
	if err != nil {
		return nil, wrap("list", s.path(dirBlobs), err)
	}
	var found []Damage
	for _, n := range names {
		if err := ctx.Err(); err != nil {
			return found, context.Cause(ctx)
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, n.Name())
		path := s.path(dirBlobs, n.Name())
		whole, err := fileHas(path, d)
		if err != nil {
			return found, wrap("read", path, err)
		}
		if whole && d.Validate() == nil {
			continue
		}
		found = append(found, Damage{path, fmt.Sprintf("its bytes have not the digest %s", d)})
		if repair {
			if err := os.Remove(path); err != nil {
				return found, wrap("remove", path, err)
			}
		}
	}
	if !repair {
		return found, nil
	}
	return found, s.dropEntries()
}

package cache

import (
	"path/filepath"

	digest "github.com/opencontainers/go-digest"
)

// maxPlan bounds a stored plan, in bytes. A larger one is not stored.
const maxPlan = 256 << 20

const planMagic = "bake-plan 1 "

func (s *Store) planPath(name digest.Digest) string {
	return filepath.Join(s.StatIndexDir(), "plan-"+name.Encoded())
}

// Plan returns the plan that PutPlan stored under a name. It returns nil if there is no plan or its file is damaged.
func (s *Store) Plan(name digest.Digest) []byte {
	raw, err := readBounded(s.planPath(name), maxPlan)
	if err != nil {
		return nil
	}
	plan, err := unseal(planMagic, raw)
	if err != nil {
		return nil
	}
	s.use(s.planPath(name))
	return plan
}

// PutPlan stores a plan under a name and replaces an earlier one.
func (s *Store) PutPlan(name digest.Digest, plan []byte) error {
	if len(plan) > maxPlan-1<<10 {
		return nil
	}
	path := s.planPath(name)
	return wrap("write", path, s.writeFile(path, seal(planMagic, plan)))
}

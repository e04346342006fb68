package embedded

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// mountsOf keeps where the mounts of the last step come from.
type mountsOf struct{ sources []string }

// Run implements Runner.
func (m *mountsOf) Run(_ context.Context, spec sandbox.Spec) (sandbox.Result, error) {
	m.sources = nil
	for _, one := range spec.Mounts {
		m.sources = append(m.sources, one.Source)
	}
	return sandbox.Result{}, nil
}

// TestCacheMountTwice: a step with two cache mounts of one id has one folder at both places and does not wait for
// itself, however they are shared.
func TestCacheMountTwice(t *testing.T) {
	for _, sharing := range [][2]string{
		{"shared", "shared"}, {"private", "private"}, {"locked", "locked"}, {"shared", "locked"}, {"locked", "shared"},
		{"private", "locked"},
	} {
		s := newSite(t, map[string]string{"Dockerfile": fmt.Sprintf(
			"FROM scratch\nRUN --mount=type=cache,id=x,target=/a,sharing=%s "+
				"--mount=type=cache,id=x,target=/b,sharing=%s [\"look\"]\n", sharing[0], sharing[1])})
		mounts := &mountsOf{}
		s.runner.next = mounts
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // of a step that waits for itself
		_, err := s.engine.Run(ctx, s.graph(), s.opts)
		cancel()
		if err != nil {
			t.Fatalf("%q: %v", sharing, err)
		}
		if m := mounts.sources; len(m) != 2 || m[0] != m[1] {
			t.Errorf("%q: the mounts are of %q", sharing, m)
		}
	}
}

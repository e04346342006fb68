package embedded

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/executor/cache"
)

// tend does something to a cache other than building, and says what was damaged.
func tend(ctx context.Context, dir, how string) error {
	store, err := cache.Open(dir)
	if err != nil {
		return err
	}
	defer store.Close()
	switch how {
	case "prune":
		_, err = store.Prune(ctx, cache.PruneOptions{All: true})
	case "collect":
		_, err = store.Collect(ctx, cache.Limits{Size: 100_000})
	case "check", "repair":
		var damages []cache.Damage
		damages, err = store.Check(ctx, cache.CheckOptions{Repair: how == "repair", Layer: CheckLayer})
		if err == nil && len(damages) > 0 {
			err = fmt.Errorf("damaged: %v", damages)
		}
	}
	return err
}

// TestEightProcesses: on one cache some processes build, others prune, collect, check and repair, and some builders are
// killed. Every build that ends has the same images, and nothing is damaged.
func TestEightProcesses(t *testing.T) {
	s := newBox(t, map[string]string{"lib/x": "1", "lib/y": "2"})
	s.targets = nil
	for _, name := range []string{"a", "b", "c"} {
		s.write(map[string]string{name + ".Dockerfile": tools + fmt.Sprintf(`RUN ["/step", "write", "/base", "same"]
COPY lib /lib
RUN --mount=type=cache,target=/c ["/step", "count", "/c/n", ";", "copy", "/lib/x", "/out-%s"]
FROM scratch
COPY --from=tools /out-%s /lib/y /
`, name, name)})
		one := target(name)
		one.Outputs, one.Tags = nil, []string{"example/" + name + ":1"}
		s.targets = append(s.targets, one)
	}
	want := s.start(t).end().Images
	if len(want) != 3 {
		t.Fatalf("images %q", want)
	}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 2 {
				if diff := cmp.Diff(want, s.start(t).end().Images); diff != "" {
					t.Error(diff)
				}
			}
		})
		killed := s.start(t)
		wg.Go(func() {
			if i%2 == 0 {
				_, _ = killed.output.ReadByte() // as soon as it is done
			}
			_ = killed.cmd.Process.Kill()
			_ = killed.cmd.Wait()
		})
	}
	for _, how := range []string{"prune", "collect", "check", "repair"} {
		wg.Go(func() {
			for range 4 {
				if out := s.startTending(t, how).end(); out.Err != "" {
					t.Error(how, out.Err)
				}
			}
		})
	}
	wg.Wait()
	if err := tend(t.Context(), s.store.Dir(), "check"); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff(want, s.start(t).end().Images); diff != "" {
		t.Error(diff)
	}
	names, err := os.ReadDir(filepath.Join(s.store.Dir(), "tmp"))
	if err != nil || len(names) != 2 { // this process's own
		t.Errorf("left in tmp: %q, %v", names, err)
	}
}

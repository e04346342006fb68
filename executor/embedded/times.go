package embedded

import (
	"strings"
	"time"

	"github.com/bakebuild/bake/planner"
)

// timeNames are the names under which the time of a step is kept, the most exact first: its definition, which a changed
// base changes; its name, which an edited command changes; its place, such as "[api build 2/4]".
func (n *node) timeNames() []string {
	switch n.op.(type) {
	case *execStep, *fileStep, *testStep:
		return timeNames(n.step)
	}
	return nil
}

func timeNames(s *planner.Step) []string {
	names := []string{"definition " + s.Digest.String(), "name " + s.Name}
	if place, _, ok := strings.Cut(s.Name, "] "); ok {
		names = append(names, "place "+place)
	}
	return names
}

// noteTime remembers how long a step ran; a result of another run took nothing and says nothing.
func (b *build) noteTime(n *node, took time.Duration) {
	if took <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range n.timeNames() {
		b.took[name] = took
	}
}

// saveTimes keeps the times of what ran. They are advice: a build does not fail for them.
func (b *build) saveTimes() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.store.AddDurations(b.took)
}

package embedded

import (
	"strings"
	"time"

	"github.com/bakebuild/bake/planner"
)

// Estimated times of steps that never ran. They only decide which step starts first.
const (
	unknownExec = 5 * time.Second
	unknownFile = 100 * time.Millisecond
	otherStep   = time.Millisecond
)

// weight estimates how long a step takes, from its last run.
func (n *node) weight() time.Duration {
	switch n.op.(type) {
	case *execStep, *testStep:
		return firstOf(n.result.Expected, unknownExec)
	case *fileStep:
		return firstOf(n.result.Expected, unknownFile)
	}
	return otherStep
}

func firstOf(d, otherwise time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return otherwise
}

// timeNames returns the names under which the time of a step is stored, the most exact first: its definition, which
// changes with its base; its name, which changes with the command; its place, such as "[api build 2/4]".
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

// noteTime records how long a step ran. A time of zero means that the result came from another run.
func (b *build) noteTime(n *node, duration time.Duration) {
	if duration <= 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range n.timeNames() {
		b.durations[name] = duration
	}
}

// saveTimes stores the times of the steps that ran. Only estimates depend on them, so an error does not fail the build.
func (b *build) saveTimes() {
	b.mu.Lock()
	defer b.mu.Unlock()
	_ = b.store.AddDurations(b.durations)
}

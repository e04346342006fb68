package report

import "strings"

// Seen is a build that did not come to its end as it is known now: one that goes on, or whose process was killed meanwhile. logs are those
// of its steps, by the beginning of their digests.
func (r Run) Seen(alive bool, logs map[string]string) Run {
	if !alive {
		r.Status, r.Session = Interrupted, ""
	}
	steps := make([]Step, len(r.Steps))
	copy(steps, r.Steps)
	for begins, log := range logs {
		for i := range steps {
			if strings.HasPrefix(steps[i].Digest.Encoded(), begins) {
				steps[i].Log = log
			}
		}
	}
	r.Steps = steps
	return r
}

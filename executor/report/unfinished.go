package report

import "strings"

// Unfinished returns the current state of a run that was recorded as running. If its process is no longer alive, it was
// interrupted. logs maps digest prefixes of steps to their log files.
func (r Run) Unfinished(alive bool, logs map[string]string) Run {
	if !alive {
		r.Status, r.Session = Interrupted, ""
	}
	steps := make([]Step, len(r.Steps))
	copy(steps, r.Steps)
	for prefix, log := range logs {
		for i := range steps {
			if strings.HasPrefix(steps[i].Digest.Encoded(), prefix) {
				steps[i].Log = log
			}
		}
	}
	r.Steps = steps
	return r
}

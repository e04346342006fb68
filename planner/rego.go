package planner

import (
	"errors"
	"io/fs"
	"strings"

	"github.com/bakebuild/bake/config"
)

// RegoError reports that a policy in Rego applies to a target in Docker. It is not evaluated here, and an unevaluated
// policy must not appear to be enforced.
type RegoError struct {
	Target string
	What   string // the policy
}

// Error returns the policy and what to do. Target is empty if an error around this one names the target.
func (e *RegoError) Error() string {
	text := e.What + " is in Rego, which only buildx evaluates; use a policy block, or build without the policy: " +
		"--policy disabled=true"
	if e.Target != "" {
		return "target " + e.Target + ": " + text
	}
	return text
}

// checkRego returns a RegoError if there is a policy next to the Dockerfile of a target at path, in the context in, and
// it applies. The lookup is recorded, so that a stored plan is not used if such a policy appears.
func (p *plan) checkRego(t *config.Target, in localDir, path string) error {
	_, err := p.files.getIn(in, path+config.RegoSuffix)
	_, adjacent := t.RegoPolicies()
	if errors.Is(err, fs.ErrNotExist) || !adjacent || !p.opts.RefuseRego {
		return nil
	}
	return p.targetError(t, "dockerfile", &RegoError{What: "policy " + p.displayPath(in, path) + config.RegoSuffix})
}

// namesRego reports whether the inputs of a stored plan include a policy in Rego. The plan may have been stored by a
// command that does not refuse it.
func (m *memo) namesRego() bool {
	for path, content := range m.Files {
		if len(content) > 0 && strings.HasSuffix(path, config.RegoSuffix) {
			return true
		}
	}
	return false
}

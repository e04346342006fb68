package embedded

import (
	"fmt"

	"github.com/bakebuild/bake/executor"
)

// secret returns the value of a secret from the targets of the step. ok is false if no target provides it and the
// step does not require it. Values are in no key, no log and no file of the cache.
func (n *node) secret(id string, optional bool) (value []byte, ok bool, err error) {
	for _, target := range n.step.Targets {
		for _, s := range n.b.graph.Secrets[target] {
			if s.ID == id {
				value, err := executor.ReadSecret(s)
				if err != nil {
					return nil, false, n.stepError(fmt.Errorf("secret %s of target %s: %w", id, target, err),
						"provide the file or variable that the target's secret names")
				}
				return value, true, nil
			}
		}
	}
	if optional {
		return nil, false, nil
	}
	return nil, false, n.stepError(fmt.Errorf("secret %q not found", id),
		fmt.Sprintf("add it to the target: secret = [\"id=%[1]s,src=FILE\"] "+
			"(bake image build: --secret id=%[1]s,src=FILE)", id))
}

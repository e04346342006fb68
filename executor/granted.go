package executor

import (
	"errors"
	"slices"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/planner"
)

// Denied returns an error if a step needs an entitlement that was not granted.
func Denied(s *planner.Step, allow []string) error {
	exec := s.Op.GetExec()
	switch {
	case exec == nil:
		return nil
	case exec.GetNetwork() == pb.NetMode_HOST && !slices.Contains(allow, "network.host"):
		return errors.New("the step needs the host network; to permit it, add --allow network.host")
	case exec.GetSecurity() == pb.SecurityMode_INSECURE && !slices.Contains(allow, "security.insecure"):
		return errors.New("the step needs insecure mode; to permit it, add --allow security.insecure")
	}
	return nil
}

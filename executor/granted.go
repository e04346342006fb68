package executor

import (
	"errors"
	"slices"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/planner"
)

// Denied says what a step asks of the machine that was not granted; nil when it may run.
func Denied(s *planner.Step, allow []string) error {
	exec := s.Op.GetExec()
	switch {
	case exec == nil:
		return nil
	case exec.GetNetwork() == pb.NetMode_HOST && !slices.Contains(allow, "network.host"):
		return errors.New("the step asks for the host's network: build with --allow network.host to grant it")
	case exec.GetSecurity() == pb.SecurityMode_INSECURE && !slices.Contains(allow, "security.insecure"):
		return errors.New("the step asks for insecure mode: build with --allow security.insecure to grant it")
	}
	return nil
}

package keys

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/bakebuild/bake/planner"
)

// execParts returns the canonical form of an exec op without its inputs. Proxy settings, the cgroup and the resources
// are not in it: a step's result must not depend on them.
func execParts(s *planner.Step) Parts {
	op, exec := s.Op, s.Op.GetExec()
	meta := exec.GetMeta()
	p := NewParts("exec")
	p.Add("platform", Platform(op.GetPlatform()))
	p.Hash(PartCommand, []byte(strings.Join(meta.GetArgs(), "\x00")), "")
	p.Add("working directory", meta.GetCwd())
	p.Add("user", meta.GetUser())
	p.Add("host name", meta.GetHostname())
	for _, env := range meta.GetEnv() {
		name, value, _ := strings.Cut(env, "=")
		p.Hash(PartVariable+name, []byte(value), shownValue(name, value))
	}
	for _, h := range meta.GetExtraHosts() {
		p.Add("extra host "+h.GetHost(), h.GetIP())
	}
	for _, u := range meta.GetUlimit() {
		p.Add("ulimit "+u.GetName(), fmt.Sprintf("%d:%d", u.GetSoft(), u.GetHard()))
	}
	p.Flag("mount stubs removed with all parents", meta.GetRemoveMountStubsRecursive())
	for _, code := range meta.GetValidExitCodes() {
		p.Add("valid exit code", strconv.Itoa(int(code)))
	}
	if exec.GetNetwork() != pb.NetMode_UNSET {
		p.Add("network", exec.GetNetwork().String())
	}
	if exec.GetSecurity() != pb.SecurityMode_SANDBOX {
		p.Add("security", exec.GetSecurity().String())
	}
	for _, s := range exec.GetSecretenv() {
		p.Add("secret env "+s.GetName(), fmt.Sprintf("id=%q optional=%t", s.GetID(), s.GetOptional()))
	}
	for _, d := range exec.GetCdiDevices() {
		p.Add("device "+d.GetName(), strconv.FormatBool(d.GetOptional()))
	}
	for _, m := range exec.GetMounts() {
		p.Add("mount "+m.GetDest(), mountString(s, m))
	}
	return p
}

// mountString returns the canonical form of a mount. The content of its input is a part of its own.
func mountString(s *planner.Step, m *pb.Mount) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s readonly=%t output=%d", m.GetMountType(), m.GetReadonly(), m.GetOutput())
	switch m.GetMountType() {
	case pb.MountType_BIND:
		if !readsMount(s, m) { // otherwise the content of what source names is a part, wherever it is from
			fmt.Fprintf(&b, " source=%q", m.GetSelector())
		}
	case pb.MountType_CACHE:
		fmt.Fprintf(&b, " source=%q", m.GetSelector())
		if id := m.GetCacheOpt().GetID(); !defaultMountID(id, m.GetDest(), s.Op.GetExec().GetMeta().GetCwd()) {
			fmt.Fprintf(&b, " id=%q", id)
		}
	case pb.MountType_TMPFS:
		fmt.Fprintf(&b, " size=%d", m.GetTmpfsOpt().GetSize())
	case pb.MountType_SECRET:
		o := m.GetSecretOpt()
		fmt.Fprintf(&b, " id=%q owner=%d:%d mode=%o optional=%t",
			o.GetID(), o.GetUid(), o.GetGid(), o.GetMode(), o.GetOptional())
	case pb.MountType_SSH:
		o := m.GetSSHOpt()
		fmt.Fprintf(&b, " id=%q owner=%d:%d mode=%o optional=%t",
			o.GetID(), o.GetUid(), o.GetGid(), o.GetMode(), o.GetOptional())
	}
	return b.String()
}

// defaultMountID reports whether a cache mount has the id that the frontend derives from its target. Another id names
// other files: a step that fills the mount must run again.
func defaultMountID(id, dest, cwd string) bool {
	target, ok := strings.CutPrefix(id, "/") // after the namespace, which is empty by default
	return ok && (target == dest || path.Join("/", cwd, target) == dest)
}

// Platform returns os/architecture[/variant], with the version of the operating system where one is given.
func Platform(p *pb.Platform) string {
	if p == nil {
		return ""
	}
	s := p.GetOS() + "/" + p.GetArchitecture()
	if p.GetVariant() != "" {
		s += "/" + p.GetVariant()
	}
	if p.GetOSVersion() != "" {
		s += "@" + p.GetOSVersion()
	}
	return s
}

// checkExec reports why an exec op cannot be executed. The op may be of any origin.
func checkExec(op *pb.Op) error {
	exec := op.GetExec()
	if len(exec.GetMeta().GetArgs()) == 0 {
		return fmt.Errorf("the step has no command")
	}
	roots := 0
	for _, m := range exec.GetMounts() {
		if m.GetInput() < int64(pb.Empty) || m.GetInput() >= int64(len(op.GetInputs())) {
			return fmt.Errorf("mount %s names input %d of %d", m.GetDest(), m.GetInput(), len(op.GetInputs()))
		}
		if m.GetOutput() < int64(pb.SkipOutput) || m.GetOutput() >= int64(len(exec.GetMounts())) {
			return fmt.Errorf("mount %s names output %d of %d mounts",
				m.GetDest(), m.GetOutput(), len(exec.GetMounts()))
		}
		if m.GetDest() == pb.RootMount {
			roots++
		}
	}
	if roots != 1 {
		return fmt.Errorf("the step has %d root mounts, not one", roots)
	}
	switch exec.GetSecurity() {
	case pb.SecurityMode_SANDBOX, pb.SecurityMode_INSECURE:
	default:
		return fmt.Errorf("unknown security mode %d", exec.GetSecurity())
	}
	switch exec.GetNetwork() {
	case pb.NetMode_UNSET, pb.NetMode_NONE, pb.NetMode_HOST:
		return nil
	}
	return fmt.Errorf("unknown network mode %d", exec.GetNetwork())
}

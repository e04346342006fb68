// Package seccomp assembles the system call filters of steps. It is not part of package sandbox, because the init
// process of a step waits for everything that sandbox imports.
package seccomp

import (
	"encoding/binary"
	"fmt"
	"slices"

	bpfpolicy "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	profile "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// errnoENOSYS is the action for system calls that are newer than the profile.
const errnoENOSYS = bpfpolicy.ActionErrno | bpfpolicy.Action(unix.ENOSYS)

// Filters returns two seccomp filters, each as the bytes of an array of the kernel's struct sock_filter.
//
// The first is Docker's default profile for the default capabilities: it allows listed system calls and returns EPERM
// for others. But a C library that tries a new system call falls back to an older one only after ENOSYS; after EPERM
// the program fails. So the second filter returns ENOSYS for numbers above the newest one that the tables of this
// program know. Both are loaded in this order. The kernel runs all filters and takes the strictest action; of equal
// actions, that of the filter loaded last. Both actions are "return an error", so ENOSYS wins.
//
// The first filter also refuses 32-bit system calls on a 64-bit kernel, whose numbers mean other calls. TestRun
// (capabilities) and TestRefused in package sandbox run steps under these filters.
func Filters() ([][]byte, error) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: capNames()}}}
	p, err := profile.GetDefaultProfile(spec)
	if err != nil {
		return nil, fmt.Errorf("default profile: %w", err)
	}
	native, err := arch.GetInfo("")
	if err != nil {
		return nil, err
	}
	policy, newest, err := policyOf(p, native)
	if err != nil {
		return nil, err
	}
	allowed, err := assemble(policy.Assemble())
	if err != nil {
		return nil, err
	}
	newer, err := assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: uint32(newest), SkipFalse: 1},
		bpf.RetConstant{Val: uint32(errnoENOSYS)},
		bpf.RetConstant{Val: uint32(bpfpolicy.ActionAllow)},
	}, nil)
	if err != nil {
		return nil, err
	}
	return [][]byte{allowed, newer}, nil
}

// assemble returns the bytes of a program. It passes on an error of the call that created the program.
func assemble(program []bpf.Instruction, err error) ([]byte, error) {
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("assemble filter: %w", err)
	}
	var p []byte
	for _, r := range raw {
		p = binary.NativeEndian.AppendUint16(p, r.Op)
		p = append(p, r.Jt, r.Jf)
		p = binary.NativeEndian.AppendUint32(p, r.K)
	}
	return p, nil
}

// capNames returns the names of the default capabilities, as the profile spells them. It matches sandbox.defaultCaps.
func capNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
		"CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SYS_CHROOT", "CAP_MKNOD", "CAP_AUDIT_WRITE",
		"CAP_SETFCAP",
	}
}

// policyOf converts the profile to a policy of the assembler. It also returns the highest system call number that the
// assembler knows. It skips system calls that this architecture does not have.
func policyOf(p *specs.LinuxSeccomp, native *arch.Info) (*bpfpolicy.Policy, int, error) {
	if p.DefaultAction != specs.ActErrno {
		return nil, 0, fmt.Errorf("unsupported default action %s", p.DefaultAction)
	}
	policy := &bpfpolicy.Policy{DefaultAction: bpfpolicy.ActionErrno}
	newest := 0
	for n := range native.SyscallNumbers {
		newest = max(newest, n)
	}
	seen := map[string]bool{} // names without conditions; several rules may list one
	for _, rule := range p.Syscalls {
		action, err := actionOf(rule)
		if err != nil {
			return nil, 0, err
		}
		group := bpfpolicy.SyscallGroup{Action: action}
		conditions, err := conditionsOf(rule.Args)
		if err != nil {
			return nil, 0, fmt.Errorf("rule for %v: %w", rule.Names, err)
		}
		for _, name := range rule.Names {
			if _, known := native.SyscallNames[name]; !known || seen[name] {
				continue
			}
			if conditions != nil {
				conditional := bpfpolicy.NameWithConditions{Name: name, Conditions: conditions}
				group.NamesWithCondtions = append(group.NamesWithCondtions, conditional)
				continue
			}
			seen[name] = true
			group.Names = append(group.Names, name)
		}
		if len(group.Names)+len(group.NamesWithCondtions) > 0 {
			policy.Syscalls = append(policy.Syscalls, group)
		}
	}
	slices.SortStableFunc(policy.Syscalls, func(a, b bpfpolicy.SyscallGroup) int {
		return int(min(len(a.NamesWithCondtions), 1)) - int(min(len(b.NamesWithCondtions), 1))
	})
	return policy, newest, nil
}

func actionOf(rule specs.LinuxSyscall) (bpfpolicy.Action, error) {
	switch rule.Action {
	case specs.ActAllow:
		return bpfpolicy.ActionAllow, nil
	case specs.ActErrno:
		errno := uint(unix.EPERM)
		if rule.ErrnoRet != nil {
			errno = *rule.ErrnoRet
		}
		return bpfpolicy.ActionErrno | bpfpolicy.Action(errno), nil
	}
	return 0, fmt.Errorf("unsupported action %s for %v", rule.Action, rule.Names)
}

func conditionsOf(args []specs.LinuxSeccompArg) (bpfpolicy.ArgumentConditions, error) {
	operations := map[specs.LinuxSeccompOperator]bpfpolicy.Operation{
		specs.OpEqualTo: bpfpolicy.Equal, specs.OpNotEqual: bpfpolicy.NotEqual,
		specs.OpLessThan: bpfpolicy.LessThan, specs.OpLessEqual: bpfpolicy.LessOrEqual,
		specs.OpGreaterThan: bpfpolicy.GreaterThan, specs.OpGreaterEqual: bpfpolicy.GreaterOrEqual,
	}
	var all bpfpolicy.ArgumentConditions
	for _, a := range args {
		op, ok := operations[a.Op]
		if a.Op == specs.OpMaskedEqual && a.ValueTwo == 0 {
			op, ok = bpfpolicy.BitsNotSet, true // arg & Value == 0
		}
		if !ok {
			return nil, fmt.Errorf("unsupported operator %s", a.Op)
		}
		all = append(all, bpfpolicy.Condition{Argument: uint32(a.Index), Operation: op, Value: a.Value})
	}
	return all, nil
}

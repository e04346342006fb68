package embedded

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// TestHostileOps runs graphs that no frontend makes, as a damaged or foreign one may hold them: each is an error that
// names the step, never a panic, and nothing outside of the cache is touched (CVE-2024-23650, GHSA-qx3x-mv6r-52p6
// indices, GHSA-7236-3392-c5c6 security mode, GHSA-32pv-7hq5-qhwq removal).
func TestHostileOps(t *testing.T) {
	const up = "../../../../../CANARY/"
	exec := func(change func(*pb.ExecOp)) func(*pb.Op) {
		return func(op *pb.Op) {
			if e := op.GetExec(); e != nil {
				change(e)
			}
		}
	}
	file := func(change func(*pb.FileAction)) func(*pb.Op) {
		return func(op *pb.Op) {
			if f := op.GetFile(); f != nil {
				change(f.Actions[0])
			}
		}
	}
	for name, c := range map[string]struct {
		change func(*pb.Op)
		want   string // "" for what is contained
	}{
		"input of a mount":    {exec(func(e *pb.ExecOp) { e.Mounts[0].Input = 99 }), "input 99"},
		"input below scratch": {exec(func(e *pb.ExecOp) { e.Mounts[0].Input = -7 }), "input -7"},
		"output of a mount":   {exec(func(e *pb.ExecOp) { e.Mounts[0].Output = 1 << 40 }), "output"},
		"output below none":   {exec(func(e *pb.ExecOp) { e.Mounts[0].Output = -7 }), "output"},
		"no root":             {exec(func(e *pb.ExecOp) { e.Mounts = nil }), "root mounts"},
		"two roots":           {exec(func(e *pb.ExecOp) { e.Mounts = append(e.Mounts, e.Mounts[0]) }), "root mounts"},
		"no meta":             {exec(func(e *pb.ExecOp) { e.Meta = nil }), "no command"},
		"security mode":       {exec(func(e *pb.ExecOp) { e.Security = 7 }), "security mode 7"},
		"network mode":        {exec(func(e *pb.ExecOp) { e.Network = 7 }), "network mode 7"},
		"mount type": {exec(func(e *pb.ExecOp) {
			e.Mounts = append(e.Mounts, &pb.Mount{Dest: "/x", MountType: 77, Input: -1, Output: -1})
		}), "mount"},
		"input of a file action":    {file(func(a *pb.FileAction) { a.Input = 99 }), "99"},
		"file action below scratch": {file(func(a *pb.FileAction) { a.Input = -7 }), "-7"},
		"second input of a file":    {file(func(a *pb.FileAction) { a.SecondaryInput = 99 }), "99"},
		"output of a file action":   {file(func(a *pb.FileAction) { a.Output = 1 << 40 }), "output"},
		"no action":                 {file(func(a *pb.FileAction) { a.Action = nil }), "action"},
		"action without its value":  {file(func(a *pb.FileAction) { a.Action = &pb.FileAction_Copy{} }), ""},
		"removal of the root":       {file(remove("/", false)), ""},
		"removal above the root":    {file(remove("/../../../../../../CANARY", false)), ""},
		"removal of the empty path": {file(remove("", true)), ""},
		"removal with a pattern":    {file(remove("/../../CANARY/*", true)), ""},
		"directory above the root": {file(func(a *pb.FileAction) {
			a.Action = &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: up + "new", MakeParents: true}}
		}), ""},
		"file above the root": {file(func(a *pb.FileAction) {
			a.Action = &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "../../../../../CANARY"}}
		}), ""},
		"symlink above the root": {file(func(a *pb.FileAction) {
			a.Action = &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: "/x", Newpath: up + "l"}}
		}), ""},
		"destination above the root":  {file(func(a *pb.FileAction) { a.GetCopy().Dest = up + "new" }), ""},
		"source above the context":    {file(func(a *pb.FileAction) { a.GetCopy().Src = up + "secret" }), "is not in"},
		"no operation at all":         {func(op *pb.Op) { op.Op = nil }, ""},
		"source of an unknown scheme": {func(op *pb.Op) { setSource(op, "evil://x") }, "evil"},
		"source without a scheme":     {func(op *pb.Op) { setSource(op, "../../CANARY") }, "CANARY"},
	} {
		t.Run(name, func(t *testing.T) { runHostile(t, c.change, c.want) })
	}
}

// runHostile runs a graph with changed ops, wants an error with a text unless it is "", and checks a file outside.
func runHostile(t *testing.T, change func(*pb.Op), want string) {
	t.Helper()
	s := newSite(t, map[string]string{
		"Dockerfile": "FROM scratch\nCOPY a.txt /\nRUN [\"write\", \"/x\", \"y\"]\n", "a.txt": "one",
	})
	canary := filepath.Join(t.TempDir(), "canary")
	if err := os.Mkdir(canary, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(canary, "secret"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := s.engine.Run(t.Context(), hostileGraph(s.graph(), canary, change), executor.Options{Dir: s.dir})
	if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
	names, _ := filepath.Glob(canary + "/*")
	raw, err := os.ReadFile(filepath.Join(canary, "secret"))
	if err != nil || string(raw) != "kept" || len(names) != 1 {
		t.Errorf("the canary was touched: %q, %q, %v", names, raw, err)
	}
}

func remove(path string, wildcard bool) func(*pb.FileAction) {
	return func(a *pb.FileAction) {
		a.Action = &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: path, AllowWildcard: wildcard, AllowNotFound: true}}
	}
}

func setSource(op *pb.Op, identifier string) {
	if op.GetSource() != nil {
		op.GetSource().Identifier = identifier
	}
}

// hostileGraph is a copy of g with changed ops, in which the path /CANARY is the canary's.
func hostileGraph(g *planner.Graph, canary string, change func(*pb.Op)) *planner.Graph {
	changed := *g
	copies := map[*planner.Step]*planner.Step{}
	changed.Steps = nil
	for _, s := range g.Steps {
		c := *s
		c.Op = proto.Clone(s.Op).(*pb.Op)
		change(c.Op)
		for _, a := range c.Op.GetFile().GetActions() {
			point(a, canary)
		}
		c.Inputs = slices.Clone(s.Inputs)
		for i, e := range c.Inputs {
			c.Inputs[i].Step = copies[e.Step]
		}
		copies[s] = &c
		changed.Steps = append(changed.Steps, &c)
	}
	changed.Images = nil
	for _, i := range g.Images {
		c := *i
		c.Root.Step = copies[i.Root.Step]
		changed.Images = append(changed.Images, &c)
	}
	return &changed
}

// point puts the canary's path where an action says /CANARY.
func point(a *pb.FileAction, canary string) {
	put := func(p *string) { *p = strings.ReplaceAll(*p, "/CANARY", canary) }
	if v := a.GetRm(); v != nil {
		put(&v.Path)
	}
	if v := a.GetMkdir(); v != nil {
		put(&v.Path)
	}
	if v := a.GetMkfile(); v != nil {
		put(&v.Path)
	}
	if v := a.GetSymlink(); v != nil {
		put(&v.Newpath)
	}
	if v := a.GetCopy(); v != nil {
		put(&v.Dest)
		put(&v.Src)
	}
}

package keys_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/keys"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// graphOf has a step that copies a.txt from a context, and one that runs a command on the result.
func graphOf(dir string) *planner.Graph {
	local := &planner.Step{Name: "context", Digest: digest.FromString("context"), Op: &pb.Op{
		Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: planner.LocalPrefix + "."}},
	}}
	action := &pb.FileAction{SecondaryInput: 0, Input: int64(pb.Empty), Output: 0, Action: &pb.FileAction_Copy{
		Copy: &pb.FileActionCopy{Src: "/a.txt", Dest: "/", Mode: -1},
	}}
	copying := &planner.Step{
		Name: "COPY a.txt /", Digest: digest.FromString("copy"), Targets: []string{"api"},
		Inputs: []planner.Edge{{Step: local}},
		Op:     &pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{action}}}},
	}
	run := &planner.Step{
		Name: "RUN make", Digest: digest.FromString("run"), Inputs: []planner.Edge{{Step: copying}},
		Op: &pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_Exec{Exec: &pb.ExecOp{
			Meta: &pb.Meta{Args: []string{"make"}}, Mounts: []*pb.Mount{{Dest: pb.RootMount}},
		}}},
	}
	return &planner.Graph{
		Steps: []*planner.Step{local, copying, run}, Locals: map[string]planner.Local{".": {Dir: dir}},
	}
}

// aPatch overrides a.txt of a directory.
type aPatch struct{ dir string }

func (p aPatch) Overrides(dir string) map[string]*tree.Entry {
	if dir != p.dir {
		return nil
	}
	return map[string]*tree.Entry{"a.txt": {Mode: tree.ModeRegular | 0o644, Size: 3}}
}

func (p aPatch) Touches(path string) bool { return strings.HasPrefix(path, p.dir) }

func (p aPatch) Digest(context.Context, string) (digest.Digest, error) {
	return digest.FromString("two"), nil
}

// TestFingerprints: what a step reads changes its fingerprint and those after it, and nothing else does. A patch
// gives the fingerprints that the patched directory has.
func TestFingerprints(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	check(t, err)
	write := func(name, content string) {
		t.Helper()
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
		check(t, os.Chmod(filepath.Join(dir, name), 0o644))
	}
	of := func(patch tree.Patch) []digest.Digest {
		t.Helper()
		all, err := keys.NewFingerprints(t.TempDir()).Steps(t.Context(), graphOf(dir), patch)
		check(t, err)
		return all
	}
	write("a.txt", "one")
	first, patched := of(nil), of(aPatch{dir})
	write("other.txt", "x")
	if d := cmp.Diff(first, of(nil)); d != "" {
		t.Errorf("a file that no step reads changes fingerprints: %s", d)
	}
	write("a.txt", "two")
	second := of(nil)
	if first[0] != second[0] || first[1] == second[1] || first[2] == second[2] {
		t.Errorf("got %v, then %v", first, second)
	}
	if d := cmp.Diff(second, patched); d != "" {
		t.Errorf("patched differs: %s", d)
	}
}

// TestMissingSource: a missing file is a fault of the step.
func TestMissingSource(t *testing.T) {
	dir := t.TempDir()
	_, err := keys.NewFingerprints(t.TempDir()).Steps(t.Context(), graphOf(dir), nil)
	step, ok := errors.AsType[*keys.StepError](err)
	const want = "target api: COPY a.txt /: /a.txt is not in the build context "
	if !ok || step.Step.Name != "COPY a.txt /" || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got %v", err)
	}
}

// TestCompare: parts differ by their digests, and a part that is not known yet does not differ.
func TestCompare(t *testing.T) {
	old := keys.Parts{{Name: "a", Digest: "1"}, {Name: "b", Digest: "1"}, {Name: "open", Digest: "1"}}
	now := keys.Parts{{Name: "c", Digest: "1"}, {Name: "a", Digest: "2"}, {Name: "b", Digest: "1", Value: "shown"}}
	var got []string
	for _, d := range keys.Compare(old, now, func(name string) bool { return name == "open" }) {
		got = append(got, d.Name)
	}
	if d := cmp.Diff([]string{"c", "a"}, got); d != "" {
		t.Errorf("want -, got +\n%s", d)
	}
	if n := keys.Distance(old, now); n != 4 {
		t.Errorf("distance %d, want 4", n)
	}
}

package buildkitd

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// step returns a step of an op. Its digest does not matter here.
func step(name string, op *pb.Op, inputs ...planner.Edge) *planner.Step {
	for _, in := range inputs {
		op.Inputs = append(op.Inputs, &pb.Input{Digest: string(in.Step.Digest), Index: int64(in.Index)})
	}
	return &planner.Step{Digest: digest.FromString(name), Op: op, Inputs: inputs, Name: name}
}

func contextStep() *planner.Step {
	return step("context", &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://app"}}})
}

func copyStep(name string, from *planner.Step, paths ...string) *planner.Step {
	var actions []*pb.FileAction
	for _, p := range paths {
		actions = append(actions, &pb.FileAction{Input: -1, SecondaryInput: 0,
			Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: p, Dest: "/"}}})
	}
	return step(name, &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}, planner.Edge{Step: from})
}

func execStep(name string, mounts []*pb.Mount, inputs ...planner.Edge) *planner.Step {
	return step(name, &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{name}}, Mounts: mounts}}},
		inputs...)
}

func TestOnlyThePathsThatStepsReadAreSent(t *testing.T) {
	for _, c := range []struct {
		name  string
		users func(*planner.Step) []*planner.Step
		want  []string
	}{
		{"of several steps", func(s *planner.Step) []*planner.Step {
			return []*planner.Step{copyStep("a", s, "/src/a", "b*"), copyStep("b", s, "src/a")}
		}, []string{"b*", "src/a"}},
		{"all for one that copies all", func(s *planner.Step) []*planner.Step {
			return []*planner.Step{copyStep("a", s, "/src/a"), copyStep("b", s, "/")}
		}, nil},
		{"of a bind mount", func(s *planner.Step) []*planner.Step {
			return []*planner.Step{execStep("a", []*pb.Mount{{Input: 0, Selector: "/lib", Dest: "/lib"}},
				planner.Edge{Step: s})}
		}, []string{"lib"}},
		{"all for a bind mount without a path", func(s *planner.Step) []*planner.Step {
			return []*planner.Step{execStep("a", []*pb.Mount{{Input: 0, Dest: "/lib"}}, planner.Edge{Step: s})}
		}, nil},
		{"all for a merge", func(s *planner.Step) []*planner.Step {
			return []*planner.Step{step("m", &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}, planner.Edge{Step: s})}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			context := contextStep()
			g := &planner.Graph{Steps: append([]*planner.Step{context}, c.users(context)...),
				Locals: map[string]planner.Local{"app": {Dir: "/app"}}}
			d, err := newDefinitions(g, "session", newSecretSet(g), false)
			if err != nil {
				t.Fatal(err)
			}
			op := opOf(t, d.ops[context].raw)
			attrs := op.GetSource().Attrs
			if attrs[pb.AttrLocalSessionID] != "session" || attrs[pb.AttrLocalUniqueID] != "session" {
				t.Errorf("another client's context of the same name would be used: %v", attrs)
			}
			var got []string
			if raw := attrs[pb.AttrFollowPaths]; raw != "" {
				if err := json.Unmarshal([]byte(raw), &got); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// opOf reads an op of a definition.
func opOf(t *testing.T, raw []byte) *pb.Op {
	t.Helper()
	op := new(pb.Op)
	if err := op.UnmarshalVT(raw); err != nil {
		t.Fatal(err)
	}
	return op
}

func TestDefinitionHoldsWhatTheImageNeeds(t *testing.T) {
	context := contextStep()
	a, b := copyStep("a", context, "a"), copyStep("b", context, "b")
	g := &planner.Graph{Steps: []*planner.Step{context, a, b}}
	d, err := newDefinitions(g, "session", newSecretSet(g), true)
	if err != nil {
		t.Fatal(err)
	}
	def := d.of(planner.Edge{Step: b})
	if len(def.Def) != 3 {
		t.Fatalf("%d ops, want the context, the copy and the end", len(def.Def))
	}
	for i, raw := range def.Def {
		op := opOf(t, raw)
		if i > 0 && op.Inputs[0].Digest != digest.FromBytes(def.Def[i-1]).String() {
			t.Errorf("input of op %d is not the op before it", i)
		}
	}
	if !def.Metadata[digest.FromBytes(def.Def[1]).String()].IgnoreCache ||
		def.Metadata[digest.FromBytes(def.Def[0]).String()].IgnoreCache {
		t.Error("without the cache, steps run and sources do not")
	}
	if d.of(planner.Edge{}) != nil {
		t.Error("scratch has a definition")
	}
}

// TestSecretsOfEachTarget checks that steps get the secret of their own target when two targets use one id.
func TestSecretsOfEachTarget(t *testing.T) {
	t.Setenv("ONE", "1")
	t.Setenv("TWO", "2")
	mount := func() []*pb.Mount { return []*pb.Mount{{Input: -1, SecretOpt: &pb.SecretOpt{ID: "token"}}} }
	one, two, three := execStep("one", mount()), execStep("two", mount()), execStep("three", mount())
	one.Targets, two.Targets, three.Targets = []string{"one"}, []string{"two"}, []string{"three"}
	g := &planner.Graph{
		Steps:   []*planner.Step{one, two, three},
		Secrets: map[string][]config.Secret{"one": {{ID: "token", Env: "ONE"}}, "two": {{ID: "token", Env: "TWO"}}},
	}
	o := newSecretSet(g)
	d, err := newDefinitions(g, "session", o, false)
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[*planner.Step]string{one: "1", two: "2", three: ""} {
		op := opOf(t, d.ops[s].raw)
		value, err := o.GetSecret(t.Context(), op.GetExec().Mounts[0].SecretOpt.ID)
		if string(value) != want || (err != nil) != (want == "") {
			t.Errorf("step %s gets %q, %v", s.Name, value, err)
		}
	}
}

// TestSecretsOfRepositories checks that a repository gets the token of its own target, for all hosts or one.
func TestSecretsOfRepositories(t *testing.T) {
	t.Setenv("ONE", "1")
	t.Setenv("TWO", "2")
	clone := func(name string) *planner.Step {
		s := step(name, &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{
			Identifier: "git://example.com/" + name,
			Attrs:      map[string]string{pb.AttrAuthTokenSecret: "GIT_AUTH_TOKEN", pb.AttrMountSSHSock: "default"},
		}}})
		s.Targets = []string{name}
		return s
	}
	one, two, three := clone("one"), clone("two"), clone("three")
	g := &planner.Graph{
		Steps: []*planner.Step{one, two, three},
		Secrets: map[string][]config.Secret{
			"one": {{ID: "GIT_AUTH_TOKEN.example.com", Env: "ONE"}},
			"two": {{ID: "GIT_AUTH_TOKEN.example.com", Env: "TWO"}},
		},
		SSH: map[string][]config.SSH{"one": {{ID: "default"}}},
	}
	o := newSecretSet(g)
	d, err := newDefinitions(g, "session", o, false)
	if err != nil {
		t.Fatal(err)
	}
	for s, want := range map[*planner.Step]string{one: "1", two: "2", three: ""} {
		op := opOf(t, d.ops[s].raw)
		attrs := op.GetSource().Attrs
		value, err := o.GetSecret(t.Context(), attrs[pb.AttrAuthTokenSecret]+".example.com")
		if string(value) != want || (err != nil) != (want == "") {
			t.Errorf("step %s gets %q, %v", s.Name, value, err)
		}
		if _, served := o.ssh[attrs[pb.AttrMountSSHSock]]; served != (s == one) {
			t.Errorf("step %s: an agent is served: %v", s.Name, served)
		}
	}
	if one.Op.GetSource().Attrs[pb.AttrAuthTokenSecret] != "GIT_AUTH_TOKEN" {
		t.Error("the graph was written to")
	}
}

package planner

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"

	"github.com/bakebuild/bake/config"
)

// defaultPath is the PATH of a command if the image sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Test is the definition of a step that tests an image. The Op of such a step depends on the kind of test. For a
// command it is an exec with the image as its root. For files it has no kind, and the image as its only input. For the
// config it has neither a kind nor an input. The JSON encoding of Test is part of the step's digest, so its fields must
// not change.
type Test struct {
	config.Test
	Image *ocispecs.ImageConfig `json:",omitempty"` // the tested config, for a test of the config
}

// addTests adds the test steps of an image.
func (m *merger) addTests(t *config.Target, image *Image, r *result) error {
	var img ocispecs.Image
	if err := json.Unmarshal(image.Config, &img); err != nil {
		return fmt.Errorf("target %s: image config: %w", t.Name, err)
	}
	for _, one := range t.Tests {
		s := &Step{
			Op: testOp(one, image, img.Config, t.Network), Name: testName(one, image), Test: &Test{Test: one},
			NoCache: t.NoCache != nil && *t.NoCache, Resources: resourcesOf(r),
		}
		if one.Config != nil {
			s.Test.Image = &img.Config
		} else if image.Root.Step != nil {
			s.Inputs = []Edge{image.Root}
			s.Op.Inputs = []*pb.Input{{Digest: image.Root.Step.Digest.String(), Index: int64(image.Root.Index)}}
		}
		if one.At.File != "" {
			s.Source = []Location{{File: one.At.File, Start: one.At.Line, End: one.At.Line}}
		}
		if err := m.addTest(t.Name, image, s); err != nil {
			return fmt.Errorf("target %s: test %s: %w", t.Name, one.Name, err)
		}
	}
	return nil
}

// Tested maps each test without inputs, which is a test of the config, to the root steps of the images that it tests.
// Such a test does not wait for them.
func (g *Graph) Tested() map[*Step][]*Step {
	about := map[*Step][]*Step{}
	for _, image := range g.Images {
		for _, s := range image.Tests {
			if root := image.Root.Step; root != nil && len(s.Inputs) == 0 && !slices.Contains(about[s], root) {
				about[s] = append(about[s], root)
			}
		}
	}
	return about
}

// addTest adds a test step to the graph, or reuses the equal one of another target. The digest does not cover the name
// and location of the test.
func (m *merger) addTest(target string, image *Image, s *Step) error {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.Op)
	if err != nil {
		return err
	}
	hashed := *s.Test
	hashed.Name, hashed.At = "", config.Range{}
	definition, err := json.Marshal(struct {
		Op   []byte
		Test Test
	}{raw, hashed})
	if err != nil {
		return err
	}
	s.Digest = digest.FromBytes(definition)
	m.graph.Declared++
	if same, ok := m.steps[s.Digest]; ok {
		same.NoCache = same.NoCache || s.NoCache
		s = same
	} else {
		m.steps[s.Digest] = s
		m.graph.Steps = append(m.graph.Steps, s)
	}
	if !slices.Contains(s.Targets, target) {
		s.Targets = append(s.Targets, target)
		m.owners[s] = append(m.owners[s], target)
	}
	image.Tests = append(image.Tests, s)
	return nil
}

func testName(t config.Test, image *Image) string {
	name := "[test] " + strings.Join(strings.Fields(t.Name), " ")
	if image.MultiPlatform {
		name += " on " + platforms.FormatAll(image.Platform)
	}
	return name
}

// testOp returns the op of a test without its inputs. A command runs like a RUN at the end of the Dockerfile, and its
// changes to the file system are discarded.
func testOp(t config.Test, image *Image, c ocispecs.ImageConfig, network string) *pb.Op {
	p := image.Platform
	op := &pb.Op{Platform: &pb.Platform{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant,
		OSVersion: p.OSVersion}}
	if len(t.Command) == 0 {
		return op
	}
	root := &pb.Mount{Input: 0, Dest: pb.RootMount, Output: int64(pb.SkipOutput)}
	if image.Root.Step == nil {
		root.Input = int64(pb.Empty)
	}
	meta := &pb.Meta{Args: t.Command, Env: testEnv(t, c.Env), Cwd: c.WorkingDir, User: c.User}
	if meta.Cwd == "" {
		meta.Cwd = "/"
	}
	if t.User != "" {
		meta.User = t.User
	}
	exec := &pb.ExecOp{Meta: meta, Mounts: []*pb.Mount{root}}
	switch network {
	case "none":
		exec.Network = pb.NetMode_NONE
	case "host":
		exec.Network = pb.NetMode_HOST
	}
	op.Op = &pb.Op_Exec{Exec: exec}
	return op
}

// testEnv returns the image's environment with the variables of the test added. These may refer to variables of the
// image; "$$" is a dollar sign.
func testEnv(t config.Test, image []string) []string {
	values := map[string]string{"$": "$"}
	env := slices.Clone(image)
	for _, e := range image {
		name, value, _ := strings.Cut(e, "=")
		values[name] = value
	}
	if values["PATH"] == "" {
		values["PATH"] = defaultPath
		env = append(env, "PATH="+defaultPath)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Env)) {
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		env = append(env, name+"="+os.Expand(t.Env[name], func(v string) string { return values[v] }))
	}
	return env
}

// resourcesOf returns the resource limits of a target's commands, or nil.
func resourcesOf(r *result) *pb.LinuxResources {
	for _, n := range r.own {
		if n.meta.LinuxResources != nil {
			return n.meta.LinuxResources
		}
	}
	return nil
}

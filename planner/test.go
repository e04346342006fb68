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

// defaultPath is the PATH of a command where the image sets none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Test is what a step checks that tests an image. The Op of such a step is an exec whose root is the image for a command, and
// else has the image as its only input and no kind; that of a config has none.
type Test struct {
	config.Test
	Image *ocispecs.ImageConfig `json:",omitempty"` // what the test is about, for a test of the config
}

// addTests adds the tests of an image.
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

// Tested are the steps which make the images that a test is about without reading them, as one of the config is: it does not wait for them.
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

// addTest adds a step, or takes the equal one of another target.
func (m *merger) addTest(target string, image *Image, s *Step) error {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.Op)
	if err != nil {
		return err
	}
	what := *s.Test
	what.Name, what.At = "", config.Range{}
	definition, err := json.Marshal(struct {
		Op   []byte
		Test Test
	}{raw, what})
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

// testOp is the operation of a test, but for its inputs. A command sees what a RUN at the end of the Dockerfile would see,
// and its changes are in no output.
func testOp(t config.Test, image *Image, c ocispecs.ImageConfig, network string) *pb.Op {
	p := image.Platform
	op := &pb.Op{Platform: &pb.Platform{Architecture: p.Architecture, OS: p.OS, Variant: p.Variant, OSVersion: p.OSVersion}}
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

// testEnv is the image's environment with the variables of the test.
func testEnv(t config.Test, image []string) []string {
	said := map[string]string{"$": "$"}
	env := slices.Clone(image)
	for _, e := range image {
		name, value, _ := strings.Cut(e, "=")
		said[name] = value
	}
	if said["PATH"] == "" {
		said["PATH"] = defaultPath
		env = append(env, "PATH="+defaultPath)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Env)) {
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		env = append(env, name+"="+os.Expand(t.Env[name], func(v string) string { return said[v] }))
	}
	return env
}

// resourcesOf are the limits of a target's commands.
func resourcesOf(r *result) *pb.LinuxResources {
	for _, n := range r.own {
		if n.meta.LinuxResources != nil {
			return n.meta.LinuxResources
		}
	}
	return nil
}

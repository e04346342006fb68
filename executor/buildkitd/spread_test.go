package buildkitd

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/planner"
)

var (
	amd64 = ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispecs.Platform{OS: "linux", Architecture: "arm64"}
)

// chain returns an image of commands, each on top of the one before; equal names are one step.
func chain(steps map[string]*planner.Step, platform ocispecs.Platform, names ...string) *planner.Image {
	image := &planner.Image{Target: names[len(names)-1], Platform: platform}
	for _, name := range names {
		s := steps[name]
		if s == nil {
			mounts := []*pb.Mount{{Input: -1, Dest: "/"}}
			var inputs []planner.Edge
			if image.Root.Step != nil {
				mounts[0].Input, inputs = 0, []planner.Edge{image.Root}
			}
			s = execStep(name, mounts, inputs...)
			s.Op.Platform = &pb.Platform{OS: platform.OS, Architecture: platform.Architecture}
			steps[name] = s
		}
		image.Root = planner.Edge{Step: s}
	}
	return image
}

func on(address string, weight int, list ...ocispecs.Platform) *builder {
	return &builder{Builder: Builder{Address: address, Weight: weight}, platforms: list}
}

func TestSharedStepsStayTogether(t *testing.T) {
	steps := map[string]*planner.Step{}
	var images []*planner.Image
	for i := range 20 {
		// Two families of ten, each on four commands of its own.
		family := fmt.Sprint(i % 2)
		images = append(images, chain(steps, amd64, family+"a", family+"b", family+"c", family+"d",
			fmt.Sprint("app", i)))
	}
	r := &run{graph: &planner.Graph{Images: images}, builders: []*builder{on("a", 1, amd64), on("b", 1, amd64)}}
	shares, err := r.share(images)
	if err != nil {
		t.Fatal(err)
	}
	for b, share := range shares {
		families := map[int]bool{}
		for _, image := range share {
			var n int
			if _, err := fmt.Sscanf(image.Target, "app%d", &n); err != nil {
				t.Fatal(err)
			}
			families[n%2] = true
		}
		if len(families) != 1 || len(share) != 10 {
			t.Errorf("builder %s has %d images of %d families, want ten of one", b.Address, len(share), len(families))
		}
	}
}

func TestWeights(t *testing.T) {
	steps := map[string]*planner.Step{}
	var images []*planner.Image
	for i := range 40 {
		images = append(images, chain(steps, amd64, fmt.Sprint("app", i)))
	}
	small, large := on("small", 0, amd64), on("large", 3, amd64)
	r := &run{graph: &planner.Graph{Images: images}, builders: []*builder{small, large}}
	shares, err := r.share(images)
	if err != nil {
		t.Fatal(err)
	}
	if len(shares[small]) != 10 || len(shares[large]) != 30 {
		t.Errorf("%d and %d of 40, want 10 and 30", len(shares[small]), len(shares[large]))
	}
}

func TestNativeBuildersArePreferred(t *testing.T) {
	steps := map[string]*planner.Step{}
	amd, arm := chain(steps, amd64, "amd"), chain(steps, arm64, "arm")
	riscv := chain(steps, ocispecs.Platform{OS: "linux", Architecture: "riscv64"}, "riscv")
	copies := &planner.Image{Target: "copies", Platform: riscv.Platform}
	x86, apple := on("x86", 1, amd64, arm64), on("apple", 1, arm64)
	r := &run{graph: &planner.Graph{}, builders: []*builder{x86, apple}}
	for image, want := range map[*planner.Image]*builder{amd: x86, arm: apple, copies: x86} {
		shares, err := r.share([]*planner.Image{image})
		if err != nil || len(shares[want]) != 1 {
			t.Errorf("%s: %v, %v, want it on %s", image.Target, shares, err, want.Address)
		}
	}
	apple.leave(errors.New("connection lost"))
	if shares, err := r.share([]*planner.Image{arm}); err != nil || len(shares[x86]) != 1 {
		t.Errorf("without its native builder: %v, %v, want it emulated", shares, err)
	}
	_, err := r.share([]*planner.Image{riscv})
	var none *Error
	if !errors.As(err, &none) {
		t.Fatalf("error %v", err)
	}
	for _, want := range []string{"target riscv", "no engine supports platform linux/riscv64",
		"x86 runs linux/amd64, linux/arm64", "connection lost"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %q", want, err)
		}
	}
}

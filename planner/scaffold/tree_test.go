package scaffold_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner/scaffold"
)

// tree writes files into a new directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, filepath.Join(dir, name), text)
	}
	return dir
}

// TestLinks checks that a link counts if it stays in the directory.
func TestLinks(t *testing.T) {
	dir := tree(t, map[string]string{"common/Dockerfile.base": "FROM scratch\n", "a/x": "", "b/x": "",
		"c/real.yml": "services: {web: {image: w, build: {context: ., dockerfile_inline: FROM scratch}}}\n"})
	outside := filepath.Join(t.TempDir(), "Dockerfile")
	write(t, outside, "FROM scratch\n")
	for name, to := range map[string]string{"a/Dockerfile": "../common/Dockerfile.base", "b/Dockerfile": outside,
		"c/compose.yaml": "real.yml", "common/Dockerfile": "nothere"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	p, err := scaffold.New(t.Context(), config.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if want := `targets = ["web", "a", "common-base"]`; !strings.Contains(p.Text, want) {
		t.Errorf("want %s\n%s", want, p.Text)
	}
	checkPlans(t, dir, p.Text)
}

// TestBounds checks that files beyond a bound are noted and leave no room of other kinds.
func TestBounds(t *testing.T) {
	files := map[string]string{"z/compose.yaml": "services: {web: {image: w, build: .}}\n"}
	for i := range 2003 {
		files[fmt.Sprintf("d%04d/Dockerfile", i)] = "FROM scratch\nCOPY nothere /\n" // quicker than a plan
	}
	p, err := scaffold.New(t.Context(), config.Options{Dir: tree(t, files)})
	if err != nil {
		t.Fatal(err)
	}
	if p.Targets != 2001 || len(p.Compose) != 1 {
		t.Errorf("%d targets, compose files %q", p.Targets, p.Compose)
	}
	if notes := strings.Join(p.Notes, "\n"); !strings.Contains(notes, "3 files were left out after 2000 Dockerfiles") {
		t.Error(notes)
	}
}

// TestNothing checks that an empty result says what was left out.
func TestNothing(t *testing.T) {
	dir := tree(t, map[string]string{"compose.yaml": "services:\n  a: {build: {context: ., secrets: [s]}}\n" +
		"secrets: {s: {external: true}}\n", "b/compose.yaml": "services: 3\n"})
	_, err := scaffold.New(t.Context(), config.Options{Dir: dir})
	nothing := scaffold.ErrNothing{}
	if !errors.As(err, &nothing) {
		t.Fatal(err)
	}
	for _, want := range []string{
		"compose.yaml:3:11: service a uses external secret", "b/compose.yaml was left out: b/",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("want %s in\n%v", want, err)
		}
	}
}

// TestInterrupt checks that the work ends with the context, whatever part of it is under way.
func TestInterrupt(t *testing.T) {
	var b strings.Builder
	b.WriteString("services:\n")
	for i := range 600 {
		fmt.Fprintf(&b, "  s%d: {image: \"a/%[1]d:${T%[1]d:-1}\", build: {context: ., args: {A: \"${A%[1]d}\"}}}\n", i)
	}
	dir := tree(t, map[string]string{"compose.yaml": b.String(), "Dockerfile": "FROM scratch\n"})
	for _, after := range []time.Duration{0, time.Millisecond, 50 * time.Millisecond} {
		ctx, cancel := context.WithTimeout(t.Context(), after)
		if _, err := scaffold.New(ctx, config.Options{Dir: dir}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %v: want %v, got %v", after, context.DeadlineExceeded, err)
		}
		cancel()
	}
}

// TestFrom checks that the content of a file says what it is.
func TestFrom(t *testing.T) {
	compose := "services: {web: {image: acme/web, build: ./web}}\n"
	dir := tree(t, map[string]string{"web/Dockerfile": "FROM scratch\n", "stack": compose, "abs.yaml": compose,
		"docker-bake.yaml": "target: {web: {context: web}}\n", "docker-bake.json": `{"target": {"web": {}}}`,
		"more.yml": "services: {web: {build: {args: {A: b}}}}\n", "db.yaml": "services: {db: {image: postgres}}\n",
		"x.hcl": "target \"x\" {}\n", "bad.yaml": "services: {web: {build: {context: ., secrets: [s]}}}\n" +
			"secrets: {s: {external: true}}\n"})
	elsewhere := tree(t, map[string]string{"compose.yaml": compose})
	for _, test := range []struct {
		from      []string
		want, ext string // want is an error if ext is ""
	}{
		{[]string{"stack"}, `context = "web"`, ".hcl"},
		{[]string{filepath.Join(dir, "abs.yaml")}, `context = "web"`, ".hcl"},
		{[]string{"abs.yaml", "more.yml"}, `A = "b"`, ".hcl"},
		{[]string{"abs.yaml", "x.hcl"}, `target "x" {}`, ".hcl"},
		{[]string{"docker-bake.yaml"}, "target: {web: {context: web}}", ".yaml"},
		{[]string{"docker-bake.json"}, `{"target"`, ".json"},
		{[]string{"docker-bake.json", "x.hcl"}, "docker-bake.json: only compose and HCL files can be combined", ""},
		{[]string{"nothere.yaml"}, "nothere.yaml: no such file", ""},
		{[]string{filepath.Join(elsewhere, "compose.yaml")}, "is not below " + dir, ""},
		{[]string{"db.yaml"}, "db.yaml: no service has a build section", ""},
		{[]string{"bad.yaml"}, "bad.yaml:2:11: service web uses external secret", ""},
	} {
		p, ext, err := scaffold.From(t.Context(), config.Options{Dir: dir}, test.from)
		got := p.Text
		if err != nil {
			got, ext = err.Error(), ""
		}
		if !strings.Contains(got, test.want) || ext != test.ext {
			t.Errorf("%v: want %q and %q, got %q and\n%s", test.from, test.ext, test.want, ext, got)
		}
	}
	large := "# " + strings.Repeat("x", 2<<20) + "\ntarget \"last\" {}\n"
	write(t, filepath.Join(dir, "large.hcl"), large)
	p, _, err := scaffold.From(t.Context(), config.Options{Dir: dir}, []string{"large.hcl"})
	if err != nil || p.Text != large {
		t.Error(len(p.Text), err)
	}
}

package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// pathSpelling is a way to write a path. outside reports whether a plain path attribute would leave the project with
// it, inContext whether a context or a Dockerfile would, for which cwd:// is a prefix.
type pathSpelling struct {
	path               string
	outside, inContext bool
}

// pathSpellings returns the ways to write paths in a project directory dir/project, next to which is the directory
// dir/outside.
func pathSpellings(dir string) []pathSpelling {
	return []pathSpelling{
		{"in/file", false, false},
		{"./in/../in/file", false, false},
		{"not/there/yet", false, false},
		{dir + "/project/in/file", false, false},
		{"inner/file", false, false}, // a link to a directory of the project
		{"%2e%2e/outside/file", false, false},
		{"~/outside/file", false, false},
		{"~root", false, false},
		{dir + "/outside/file", true, true},
		{"/", true, true},
		{"../outside/file", true, true},
		{"in/../../outside/file", true, true},
		{"../project-2/file", true, true},
		{"leave/file", true, true},         // a link to outside
		{"leave/../file", true, true},      // as the kernel reads it: next to outside
		{"far/file", true, true},           // a link through another link
		{"dangling", true, true},           // a link to a missing file outside
		{"leave/new/dir", true, true},      // a path that does not exist yet, through a link
		{"in/up/outside/x", true, true},    // a relative link to ..
		{"cwd://in/file", false, false},    //
		{"cwd:///etc/passwd", false, true}, // elsewhere cwd: is a directory of the project
		{"cwd://../outside/file", false, true},
		{"cwd://leave/file", false, true},
		{"cwd://~/file", false, false},
	}
}

// writePathSpellings creates the files that pathSpellings needs and returns the directory of the project.
func writePathSpellings(t *testing.T, dir string) string {
	t.Helper()
	project := filepath.Join(dir, "project")
	for _, d := range []string{"project/in", "outside", "project-2"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{
		"leave": filepath.Join(dir, "outside"), "inner": "in", "far": "leave", "dangling": "../outside/none",
		"in/up": "../..",
	} {
		if err := os.Symlink(to, filepath.Join(project, link)); err != nil {
			t.Fatal(err)
		}
	}
	return project
}

// fileAttributes returns, for each attribute of a target, a function that writes a path into it. nil says that the
// attribute names no file of this machine. The second result lists the keys of entries in the same way.
func fileAttributes() map[string]func(*Target, string) {
	entries := func(list func(*Target) *[]Attrs, key string) func(*Target, string) {
		return func(t *Target, path string) { *list(t) = []Attrs{{"type": "local", key: path}} }
	}
	return map[string]func(*Target, string){
		"context":    func(t *Target, path string) { t.Context = path },
		"contexts":   func(t *Target, path string) { t.Contexts = map[string]string{"x": path} },
		"dockerfile": func(t *Target, path string) { t.Dockerfile = path },
		"output":     entries(func(t *Target) *[]Attrs { return &t.Outputs }, "dest"),
		"cache-from": entries(func(t *Target) *[]Attrs { return &t.CacheFrom }, "src"),
		"cache-to":   entries(func(t *Target) *[]Attrs { return &t.CacheTo }, "dest"),
		"secret":     func(t *Target, path string) { t.Secrets = []Secret{{ID: "a"}, {ID: "b", Src: path}} },
		"ssh":        func(t *Target, path string) { t.SSH = []SSH{{ID: "a", Paths: []string{"in/file", path}}} },
		"test":       func(t *Target, path string) { t.Structures = []string{path} },

		"description": nil, "inherits": nil, "dockerfile-inline": nil, "target": nil, "args": nil, "labels": nil,
		"annotations": nil, "tags": nil, "platforms": nil, "no-cache": nil, "no-cache-filter": nil, "pull": nil,
		"network": nil, "shm-size": nil, "ulimits": nil, "extra-hosts": nil, "resources": nil, "entitlements": nil,
		"call":   nil,
		"attest": nil, // a generator is an image
		"policy": nil, // never read: a target with one is not built
	}
}

// TestFileUses fails if an attribute, or a field of a value that names a file, is not classified in this file.
func TestFileUses(t *testing.T) {
	classified := fileAttributes()
	for _, a := range attributes() {
		if _, ok := classified[a.name]; !ok {
			t.Errorf("attribute %s: does it name a file of this machine? Classify it in fileAttributes", a.name)
		}
		delete(classified, a.name)
	}
	for name := range classified {
		t.Errorf("attribute %s does not exist", name)
	}
	for kind, fields := range map[reflect.Type][]string{
		reflect.TypeFor[Secret](): {"ID", "Src", "Env", "Implied"}, reflect.TypeFor[SSH](): {"ID", "Paths"},
		reflect.TypeFor[Base]():     {"Name", "Image", "Platforms", "Range"},
		reflect.TypeFor[Engine]():   {"Name", "Address", "Platforms", "Weight", "Range"},
		reflect.TypeFor[Policy]():   {"Name", "Rule", "Message", "Warn", "Range"},
		reflect.TypeFor[Registry](): {"Prefix", "Mirrors", "PlainHTTP", "CA", "Range"}, // CA: see TestGrantsOfRegistry
		reflect.TypeFor[Target](): {"Name", "Description", "Context", "Contexts", "Dockerfile", "DockerfileInline",
			"Stage", "Args", "Labels", "Annotations", "Tags", "Platforms", "Outputs", "CacheFrom", "CacheTo", "Attest",
			"Secrets", "SSH", "NoCache", "NoCacheFilter", "Pull", "Network", "ShmSize", "Ulimits", "ExtraHosts",
			"Resources", "Entitlements", "Call", "Policy", "Tests", "Structures", "Ranges"},
		reflect.TypeFor[Project](): {"Dir", "Files", "Included", "Named", "Read", "Remote", "Root",
			"Targets", "Groups", "Bases",
			"Policies", "Registries", "Engines", "Requested", "RequestedNames"},
	} {
		for _, f := range reflect.VisibleFields(kind) {
			if !slices.Contains(fields, f.Name) {
				t.Errorf("%s.%s: does it name a file of this machine? Classify it here", kind, f.Name)
			}
		}
	}
}

// denied reports whether an attribute with the path needs a grant in a target with the given context.
func (f pathSpelling) denied(attribute, context string) bool {
	switch {
	case attribute == "context", attribute == "contexts":
		return f.inContext
	case attribute != "dockerfile":
		return f.outside
	case filepath.IsAbs(f.path), strings.HasPrefix(f.path, "cwd://"):
		return f.inContext
	case context == "in": // a directory without links
		return strings.HasPrefix(f.path, "../../")
	}
	// A relative Dockerfile is joined with its context, which removes "leave/..".
	return f.inContext && MainContext(context).Kind == ContextDir && f.path != "leave/../file"
}

// TestGrantsOfFiles crosses all attributes that name a file of this machine with all kinds of main contexts and all
// forms of paths: what leaves the project needs a grant, and nothing else does.
func TestGrantsOfFiles(t *testing.T) {
	dir := t.TempDir()
	project := writePathSpellings(t, dir)
	contexts := []string{
		".", "in", project, "https://example.com/context.tar.gz", "https://example.com/Dockerfile",
		"https://example.com/repo.git#main:app", "git@example.com:repo.git", "ssh://git@example.com/repo.git",
		"git://example.com/repo.git", "-", "docker-image://alpine", "target:x", "file:///etc", "oci-layout:///etc",
	}
	grant := map[bool]string{false: "fs.read=", true: "fs.write="}
	for name, write := range fileAttributes() {
		if write == nil {
			continue
		}
		for _, context := range contexts {
			for _, spelling := range pathSpellings(dir) {
				target := &Target{Name: "x", Context: context, Dockerfile: "Dockerfile"}
				write(target, spelling.path)
				p := &Project{Dir: project, Targets: map[string]*Target{"x": target}}
				denied := spelling.denied(name, context)
				missing, err := Grants{}.Missing(p, true)
				if err != nil {
					t.Fatal(err)
				}
				if got := len(missing) > 0; got != denied {
					t.Errorf("%s %q with context %q: denied is %v, want %v: %v", name, spelling.path, context, got,
						denied,
						missing)
				}
				if !denied || len(missing) == 0 {
					continue
				}
				key := grant[name == "output" || name == "cache-to"]
				if !strings.HasPrefix(missing[0], key) {
					t.Errorf("%s %q: %v, want %s", name, spelling.path, missing, key)
				}
				allowed, err := ParseGrants(missing)
				if err != nil {
					t.Fatal(err)
				}
				if rest, err := allowed.Missing(p, true); err != nil || len(rest) > 0 {
					t.Errorf("%s %q: with %v: %v, %v", name, spelling.path, missing, rest, err)
				}
			}
		}
	}
}

// TestGrantsOfLayouts checks that every way to write an OCI layout leads to the directory that is read.
func TestGrantsOfLayouts(t *testing.T) {
	dir := t.TempDir()
	project := writePathSpellings(t, dir)
	for _, spelling := range pathSpellings(dir) {
		if strings.HasPrefix(spelling.path, "cwd://") || spelling.path == "/" {
			continue
		}
		for _, suffix := range []string{"", ":tag", "@sha256:x", ":tag@sha256:x"} {
			value := "oci-layout://" + spelling.path + suffix
			target := &Target{Name: "x", Context: ".", Dockerfile: "Dockerfile",
				Contexts: map[string]string{"x": value}}
			p := &Project{Dir: project, Targets: map[string]*Target{"x": target}}
			missing, err := Grants{}.Missing(p, true)
			if err != nil || len(missing) > 0 != spelling.outside {
				t.Errorf("%s: %v, %v", value, missing, err)
			}
		}
	}
	for _, value := range []string{
		"target:../../outside", "docker-image://../../outside", "docker-image:/../../outside", "https://example.com/x",
		"git@example.com:../../x.git", "file://../../outside", "unknown://../../outside",
	} {
		if s := NamedContext(value); s.Kind == ContextDir || s.Kind == ContextLayout {
			t.Errorf("%s is a directory", value)
		}
	}
}

// TestGrantsOfDockerfiles checks the files that are read next to a Dockerfile, or instead of it.
func TestGrantsOfDockerfiles(t *testing.T) {
	for _, link := range []string{
		"Dockerfile", "Dockerfile.dockerignore", "Dockerfile.rego", "dockerfile", "dockerfile.rego",
		"dockerfile.dockerignore", ".dockerignore",
		"named/.dockerignore",
	} {
		dir := t.TempDir()
		project := writePathSpellings(t, dir)
		if err := os.MkdirAll(filepath.Join(project, "named"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(dir, "outside", "file"), filepath.Join(project, link)); err != nil {
			t.Fatal(err)
		}
		target := &Target{Name: "x", Context: ".", Dockerfile: "Dockerfile",
			Contexts: map[string]string{"n": "cwd://named"}}
		missing, err := Grants{}.Missing(&Project{Dir: project, Targets: map[string]*Target{"x": target}}, true)
		if want := []string{"fs.read=" + link}; err != nil || !slices.Equal(missing, want) {
			t.Errorf("%s: %v, %v, want %v", link, missing, err, want)
		}
	}
}

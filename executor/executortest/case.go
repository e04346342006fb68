package executortest

import (
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

//go:embed testdata/cases
var cases embed.FS

// Case is a Dockerfile with its context, and the expected result of building it.
type Case struct {
	// Name is unique and a valid target name: TOPIC-NAME.
	Name string
	// Files are the build context, including the Dockerfile, by slash-separated path. REGISTRY/ in a Dockerfile stands
	// for the registry that serves the bases.
	Files map[string][]byte
	// Setup holds commands on the context, one per line: see setup.go.
	Setup string
	// Target holds further attributes of the target block, in HCL.
	Target string
	// Want is the image as text, or Fails if the build must fail.
	Want string
	// Own is the result of the embedded engine if it differs from Want on purpose. Reason explains the difference.
	Own, Reason string
	// Frontend is set if the difference is in reading the Dockerfile, so that bake has it on daemons too.
	Frontend bool
	// Rootless is a part of the error message if an unprivileged user cannot build the case.
	Rootless string
	// Message is a part of the error message of a build that fails.
	Message string
}

// The files of a case that are not part of its context.
const (
	setupFile   = "@setup"
	targetFile  = "@target"
	wantFile    = "@want"
	messageFile = "@message"
	ownFile     = "@own"
	reasonFile  = "@reason"
	rootFile    = "@rootless"
	frontFile   = "@frontend"
)

// Fails is the Want of a case whose build must fail.
const Fails = "fails\n"

// Cases returns all cases, sorted by name.
func Cases() ([]Case, error) {
	var all []Case
	err := fs.WalkDir(cases, "testdata/cases", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := cases.ReadFile(path)
		if err != nil {
			return err
		}
		topic := strings.TrimSuffix(filepath.Base(path), ".txtar")
		all = append(all, parseCases(topic, txtar.Parse(raw))...)
		return nil
	})
	slices.SortFunc(all, func(a, b Case) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// parseCases splits an archive into cases. The first element of a file's path is the case it belongs to.
func parseCases(topic string, archive *txtar.Archive) []Case {
	var all []Case
	at := map[string]int{}
	for _, f := range archive.Files {
		name, file, _ := strings.Cut(f.Name, "/")
		name = topic + "-" + name
		i, ok := at[name]
		if !ok {
			i = len(all)
			at[name] = i
			all = append(all, Case{Name: name, Files: map[string][]byte{}})
		}
		switch text := string(f.Data); file {
		case setupFile:
			all[i].Setup = text
		case targetFile:
			all[i].Target = text
		case wantFile:
			all[i].Want = text
		case ownFile:
			all[i].Own = text
		case reasonFile:
			all[i].Reason = strings.TrimSpace(text)
		case frontFile:
			all[i].Frontend = true
		case rootFile:
			all[i].Rootless = strings.TrimSpace(text)
		case messageFile:
			all[i].Message = strings.TrimSpace(text)
		default:
			all[i].Files[file] = f.Data
		}
	}
	return all
}

// UpdateWants writes results into the archives below dir, the testdata/cases of this package. It updates Want or, if
// own is true, Own of the cases that have a Reason.
func UpdateWants(dir string, wants map[string]string, own bool) error {
	archives, err := filepath.Glob(filepath.Join(dir, "*.txtar"))
	if err != nil {
		return err
	}
	for _, path := range archives {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			return err
		}
		topic := strings.TrimSuffix(filepath.Base(path), ".txtar")
		if err := os.WriteFile(path, txtar.Format(withWants(archive, topic, wants, own)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// withWants adds each result after the last file of its case.
func withWants(archive *txtar.Archive, topic string, wants map[string]string, own bool) *txtar.Archive {
	out := &txtar.Archive{Comment: archive.Comment}
	into, reasons := wantFile, map[string]bool{}
	if own {
		into = ownFile
	}
	for i, f := range archive.Files {
		name, file, _ := strings.Cut(f.Name, "/")
		reasons[name] = reasons[name] || file == reasonFile
		if file != into {
			out.Files = append(out.Files, f)
		}
		if i+1 < len(archive.Files) && strings.HasPrefix(archive.Files[i+1].Name, name+"/") {
			continue
		}
		if want, ok := wants[topic+"-"+name]; ok && (!own || reasons[name]) {
			out.Files = append(out.Files, txtar.File{Name: name + "/" + into, Data: []byte(want)})
		}
	}
	return out
}

// WriteProject writes a project for the cases to dir: a docker-bake.hcl with one target per case. Its context is
// ctx/NAME, its output out/NAME.tar, an OCI layout. registry serves the bases.
func WriteProject(dir, registry string, all []Case) error {
	var b strings.Builder
	names := make([]string, len(all))
	for i, c := range all {
		names[i] = fmt.Sprintf("%q", c.Name)
		context := filepath.Join(dir, "ctx", c.Name)
		if err := c.write(context, registry); err != nil {
			return fmt.Errorf("case %s: %w", c.Name, err)
		}
		fmt.Fprintf(&b, "target %q {\n  context = \"ctx/%s\"\n  output = [\"type=oci,dest=out/%s.tar\"]\n%s}\n", c.Name,
			c.Name, c.Name,
			strings.ReplaceAll(c.Target, "REGISTRY/", registry+"/"))
	}
	fmt.Fprintf(&b, "group \"default\" {\n  targets = [%s]\n}\n", strings.Join(names, ", "))
	if err := os.MkdirAll(filepath.Join(dir, "out"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "docker-bake.hcl"), []byte(b.String()), 0o644)
}

// write writes the context.
func (c Case) write(dir, registry string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i, name := range slices.Sorted(maps.Keys(c.Files)) {
		data := c.Files[name]
		if strings.Contains(name, "ockerfile") {
			data = []byte(strings.ReplaceAll(string(data), "REGISTRY/", registry+"/"))
		}
		if err := writeFile(filepath.Join(dir, name), string(data)); err != nil {
			return err
		}
		// BuildKit takes a file for unchanged if another one of equal size and time replaces it: use different times.
		at := time.Unix(int64(1e9+i), 0)
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			return err
		}
	}
	return setup(dir, c.Setup)
}

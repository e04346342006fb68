package affected

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/revision"
	"github.com/bakebuild/bake/executor/tree"
)

// checkSeen reports a file that unseenFile finds in the earlier revision.
func checkSeen(p *config.Project, v *revision.View) error {
	if file := unseenFile(p, v); file != "" {
		return fmt.Errorf("compose files may include or extend %s, which changed", file)
	}
	return nil
}

// unseenFile returns a file that differs in a revision and that loading the project may read from the disk instead of
// through the view; "" if there is none. The compose library reads the files that compose files include or extend by
// itself. A result that used such a file of the working tree would be wrong without a trace.
func unseenFile(p *config.Project, v *revision.View) string {
	for _, f := range p.Included {
		links, real := tree.LinksTo("/", f)
		if slices.ContainsFunc(append(links, real), v.Touches) {
			return f
		}
	}
	if !composes(p, v) {
		return ""
	}
	// Included does not have files that are missing on the disk, nor env files of includes. They are found by name.
	for path := range v.Differences() {
		ext, name := filepath.Ext(path), filepath.Base(path)
		if ext != ".yml" && ext != ".yaml" && !strings.Contains(name, "env") {
			continue
		}
		if !slices.ContainsFunc(p.Files, func(f string) bool { return config.Absolute(p.Dir, f) == path }) {
			return path
		}
	}
	return ""
}

// composes reports whether a compose file of the project mentions an attribute that makes the library read other files.
func composes(p *config.Project, v *revision.View) bool {
	return slices.ContainsFunc(p.Files, func(name string) bool {
		if ext := filepath.Ext(name); ext != ".yml" && ext != ".yaml" {
			return false
		}
		at, err := v.File(config.Absolute(p.Dir, name))
		if err != nil {
			return false // the revision does not have the file
		}
		raw, err := os.ReadFile(at)
		return err != nil || bytes.Contains(raw, []byte("include")) || bytes.Contains(raw, []byte("extends"))
	})
}

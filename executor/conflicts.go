package executor

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/bakebuild/bake/planner"
)

// Validate checks the outputs of all images before anything runs. It checks each output alone, whether its destination
// can be written, and that no two outputs conflict: they must not write one path, write below a file of another output,
// or both write to stdout. Several targets may fill one layout directory. Relative paths refer to dir.
func Validate(images []*planner.Image, dir string) error {
	_, err := allOutputs(images, dir)
	return err
}

// targetOutputs are the outputs of one target.
type targetOutputs struct {
	target  string
	outputs []Output
}

// allOutputs parses and checks the outputs of all images.
func allOutputs(images []*planner.Image, dir string) ([]targetOutputs, error) {
	var all []targetOutputs
	paths := outputPaths{}
	for _, group := range byTarget(images) {
		outs, err := Outputs(group, dir)
		if err != nil {
			return nil, err
		}
		target := group[0].Target
		for _, o := range outs {
			if !o.hasPath() {
				continue
			}
			if err := paths.add(target, o); err != nil {
				return nil, &OutputError{Target: target, Reason: err.Error()}
			}
		}
		all = append(all, targetOutputs{target, outs})
	}
	return all, paths.checkNesting()
}

// outputPaths are the outputs by destination: a path without symbolic links where it exists, or "-" for stdout.
type outputPaths map[string]outputPath

type outputPath struct {
	target string
	output Output
}

// add adds an output. It is an error if another output has the destination, or if the destination cannot be written.
func (paths outputPaths) add(target string, o Output) error {
	key := o.Dest
	if o.Dest != stdoutTarget {
		if err := o.checkDest(); err != nil {
			return err
		}
		if real, err := filepath.EvalSymlinks(o.Dest); err == nil {
			key = real
		}
	}
	if other, ok := paths[key]; ok {
		if o.Kind == KindOCIDir && other.output.Kind == KindOCIDir && other.target != target {
			return nil // one layout may hold the images of several targets
		}
		what := o.Dest
		if o.Dest == stdoutTarget {
			what = "stdout"
		}
		return fmt.Errorf("%s is also an output of target %s", what, other.target)
	}
	paths[key] = outputPath{target, o}
	return nil
}

// checkNesting refuses an output below a path at which another output writes a file.
func (paths outputPaths) checkNesting() error {
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		below := paths[path]
		for up := filepath.Dir(path); path != stdoutTarget && up != filepath.Dir(up); up = filepath.Dir(up) {
			if above, ok := paths[up]; ok && !above.output.isFolder() {
				reason := fmt.Sprintf("%s is below %s, which is a file of target %s", path, up, above.target)
				return &OutputError{below.target, reason}
			}
		}
	}
	return nil
}

// checkDest refuses a file where a directory exists, and a directory where something else exists.
func (o Output) checkDest() error {
	fi, err := os.Stat(o.Dest)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s is below a file; use another dest", o.Dest)
	case err != nil:
		return nil // the path does not exist yet, or writing it reports the reason
	case o.isFolder() && !fi.IsDir():
		return fmt.Errorf("%s is not a directory, but this output is one; use another dest", o.Dest)
	case !o.isFolder() && fi.IsDir():
		return fmt.Errorf("%s is a directory: a tar needs a file name%s", o.Dest, o.folderHint())
	}
	return nil
}

// isFolder reports whether an output that has a path is a directory.
func (o Output) isFolder() bool { return o.Kind == KindLocal || o.Kind == KindOCIDir }

// folderHint is the end of a message: how to write this output as a directory.
func (o Output) folderHint() string {
	if o.Kind == KindTar {
		return ", or use type=local"
	}
	return ", or use tar=false"
}

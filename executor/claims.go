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

// Validate checks the outputs of all images before anything runs: each by itself, that each can lie where it shall, and that
// no two of them write one path, one below the other's file, or both to stdout. dir is what relative paths refer to.
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
	claims := map[string]claim{}
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
			if err := o.claim(claims, target); err != nil {
				return nil, &OutputError{Target: target, Reason: err.Error()}
			}
		}
		all = append(all, targetOutputs{target, outs})
	}
	return all, checkBelow(claims)
}

// claim is an output that has a path for itself.
type claim struct {
	target string
	output Output
}

// claim takes the path of an output, unless another one has it or something of the other kind lies there.
func (o Output) claim(claims map[string]claim, target string) error {
	key := o.Dest
	if o.Dest != stdoutTarget {
		if err := o.checkPlace(); err != nil {
			return err
		}
		if real, err := filepath.EvalSymlinks(o.Dest); err == nil {
			key = real
		}
	}
	if other, ok := claims[key]; ok {
		what := o.Dest
		if o.Dest == stdoutTarget {
			what = "stdout"
		}
		return fmt.Errorf("%s is also an output of target %s", what, other.target)
	}
	claims[key] = claim{target, o}
	return nil
}

// checkPlace refuses a file where a directory is, and a directory where something else is.
func (o Output) checkPlace() error {
	fi, err := os.Stat(o.Dest)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("%s is below a file: name another dest", o.Dest)
	case err != nil:
		return nil // it is not there yet, or writing it says why it cannot be
	case o.isFolder() && !fi.IsDir():
		return fmt.Errorf("%s is not a directory, which this output is: name another dest", o.Dest)
	case !o.isFolder() && fi.IsDir():
		return fmt.Errorf("%s is a directory: a tar needs a file name%s", o.Dest, o.untarred())
	}
	return nil
}

// isFolder says whether an output that has a path is a directory.
func (o Output) isFolder() bool { return o.Kind == KindLocal || o.Kind == KindOCIDir }

// untarred is how an output into a directory is written.
func (o Output) untarred() string {
	if o.Kind == KindTar {
		return ", or use type=local"
	}
	return ", or use tar=false"
}

// checkBelow refuses an output below a path that another one makes a file of.
func checkBelow(claims map[string]claim) error {
	for _, path := range slices.Sorted(maps.Keys(claims)) {
		below := claims[path]
		for up := filepath.Dir(path); path != stdoutTarget && up != filepath.Dir(up); up = filepath.Dir(up) {
			if above, ok := claims[up]; ok && !above.output.isFolder() {
				return &OutputError{below.target, fmt.Sprintf("%s is below %s, which is a file of target %s", path, up, above.target)}
			}
		}
	}
	return nil
}

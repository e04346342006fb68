// Package imagetest compares images with what their tests require: how a command ended, a file, or the image config. It
// runs nothing itself: engines run the commands and read the files. It may import config and planner.
package imagetest

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/bakebuild/bake/config"
)

// Bounds of what a test reads and shows.
const (
	// MaxOutput is how much a tested command may write to each stream, in bytes.
	MaxOutput = 8 << 20
	maxFile   = 64 << 20 // bytes of a file whose content is tested
	maxShown  = 400      // bytes of a text in a difference
)

// Error lists the differences between an image and its test.
type Error struct{ Differences []string }

// Error implements error: one difference a line.
func (e *Error) Error() string { return strings.Join(e.Differences, "\n  ") }

// CommandResult is how a tested command ended.
type CommandResult struct {
	ExitCode       int
	Stdout, Stderr []byte
}

// Files gives access to the files of an image. Paths are absolute, symbolic links are resolved inside the image, and a
// missing file is fs.ErrNotExist.
type Files interface {
	Stat(path string) (File, error)
	Open(path string) (io.ReadCloser, error)
}

// File is the part of a file's status that tests compare.
type File struct {
	Mode     uint32 // st_mode with type bits
	UID, GID uint32
}

// differences collects what differs from a test.
type differences []string

func (d *differences) add(what, want, got string) {
	*d = append(*d, fmt.Sprintf("%s: want %s, got %s", what, want, got))
}

func (d differences) err() error {
	if len(d) == 0 {
		return nil
	}
	return &Error{d}
}

// text compares a text with what a test requires of it.
func (d *differences) text(what string, w config.TextCheck, got string) {
	if w.Exact != nil && *w.Exact != got {
		d.add(what, shown(*w.Exact), shown(got))
	}
	for _, part := range w.Contains {
		if !strings.Contains(got, part) {
			d.add(what, "a text that contains "+shown(part), shown(got))
		}
	}
	for _, e := range w.Matches {
		if !matches(e, got) {
			d.add(what, "a match of "+shown(e), shown(got))
		}
	}
	for _, e := range w.Excludes {
		if re, err := config.Expression(e); err == nil { // config has checked it
			if found := re.FindStringIndex(got); found != nil {
				d.add(what, "no match of "+shown(e), shown(got[found[0]:found[1]]))
			}
		}
	}
}

// matches reports whether an expression of a test matches a text.
func matches(expression, text string) bool {
	re, err := config.Expression(expression)
	return err == nil && re.MatchString(text)
}

// shown returns a text in quotes, cut to maxShown bytes.
func shown(s string) string {
	if len(s) > maxShown {
		return fmt.Sprintf("%q… (%d bytes)", s[:maxShown], len(s))
	}
	return strconv.Quote(s)
}

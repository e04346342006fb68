package executor

import (
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// Cause is one reason why a step ran or would run: a difference from its most similar earlier run.
type Cause struct {
	Kind CauseKind `json:"kind"`
	// Name is the name of what differs: a variable, an option, a place in a Dockerfile, or files as the Dockerfile
	// names them.
	Name string `json:"name,omitempty"`
	// Old and New are the values, cut if they are long. Both are empty if they are secret or have no text.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Files lists at most MaxFileChanges files that differ, sorted by path. More counts the others.
	Files []FileChange `json:"files,omitempty"`
	More  int          `json:"more,omitempty"`
	// Step is, for CauseInput, the step of the same graph that causes this one to run.
	Step digest.Digest `json:"step,omitempty"`
}

// CauseKind is the kind of a Cause.
type CauseKind string

// The kinds of Cause. Each kind except CauseInput is a reason of the step itself.
const (
	CauseForced      CauseKind = "forced"      // no-cache is set
	CauseNew         CauseKind = "new"         // no earlier run is known
	CauseBase        CauseKind = "base"        // the base image: old and new reference with digest
	CauseInstruction CauseKind = "instruction" // its text in the Dockerfile
	CauseVariable    CauseKind = "variable"    // a build argument or an environment variable
	CauseOption      CauseKind = "option"      // user, working directory, platform, a mount, …
	CauseFiles       CauseKind = "files"       // files that the step reads from a context or another step
	CausePruned      CauseKind = "pruned"      // nothing differs, but the cache no longer has the result
	CauseAsked       CauseKind = "asked"       // the source is checked on every build
	CauseInput       CauseKind = "input"       // another step that ran, or would run
	// CauseUnnamed: a remote cache has the result, but the build does not name it. Name is the cache.
	CauseUnnamed CauseKind = "unnamed"
	CauseUnknown CauseKind = "unknown" // the engine does not report it
)

// MaxFileChanges is how many files one Cause lists.
const MaxFileChanges = 100

// FileChange is one file that differs.
type FileChange struct {
	Path string `json:"path"` // in the context or step that it is read from
	// How is "added", "removed" or "changed". If only the permissions changed, it is "mode" with the old and new ones.
	How string `json:"how"`
}

// Own reports whether the cause is in the step itself and does not follow from another step.
func (c Cause) Own() bool { return c.Kind != CauseInput }

// shownFiles bounds the files that the text of a cause names.
const shownFiles = 3

// String returns the cause in one line, without the names of other steps.
func (c Cause) String() string { return c.Text(nil) }

// Text returns the cause in one line. name returns the name of a step; if it is nil, the text says "another step".
func (c Cause) Text(name func(digest.Digest) string) string {
	switch c.Kind {
	case CauseForced:
		return "no-cache is set"
	case CauseNew:
		return "no earlier run is known"
	case CauseBase:
		return "the base " + change(c.Old, c.New)
	case CauseInstruction:
		return strings.TrimSpace("the instruction "+c.Name) + " " + change(c.Old, c.New)
	case CauseVariable:
		return "the variable " + c.Name + " " + change(c.Old, c.New)
	case CauseOption:
		return c.Name + " " + change(c.Old, c.New)
	case CauseFiles:
		return c.filesText()
	case CausePruned:
		return "its result was removed from the cache"
	case CauseUnnamed:
		return "known from " + c.Name + ", which this build does not name"
	case CauseAsked:
		return "the source is checked on every build"
	case CauseInput:
		of := "another step"
		if name != nil && name(c.Step) != "" {
			of = shortName(name(c.Step))
		}
		if len(c.Files) > 0 {
			return "it follows from " + of + ": " + c.shortFiles()
		}
		return "it follows from " + of
	}
	return "the engine does not report why"
}

// maxShownStep bounds a step's name in the text of a cause, in bytes.
const maxShownStep = 60

func shortName(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxShownStep {
		s = strings.ToValidUTF8(s[:maxShownStep], "") + "…"
	}
	return s
}

// change describes the change of a value.
func change(old, new string) string {
	switch {
	case old == "" && new == "":
		return "changed"
	case old == "":
		return "is new: " + new
	case new == "":
		return "was removed, it was " + old
	}
	return "changed: " + old + " → " + new
}

func (c Cause) filesText() string {
	if len(c.Files) == 0 {
		return "the files of " + c.Name + " changed"
	}
	return "files changed: " + c.shortFiles()
}

// shortFiles names the first files and counts the others.
func (c Cause) shortFiles() string {
	var names []string
	for _, f := range c.Files[:min(len(c.Files), shownFiles)] {
		names = append(names, f.String())
	}
	text := strings.Join(names, ", ")
	if more := len(c.Files) + c.More - shownFiles; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// String returns the path, with the kind of change unless it is "changed".
func (f FileChange) String() string {
	if f.How == "changed" {
		return f.Path
	}
	return f.Path + " (" + f.How + ")"
}

// ReasonOf returns the first cause of a step as text, and counts the others.
func ReasonOf(causes []Cause, name func(digest.Digest) string) string {
	if len(causes) == 0 {
		return ""
	}
	text := causes[0].Text(name)
	if more := len(causes) - 1; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	return text
}

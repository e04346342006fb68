package executor

import (
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// Cause is one reason why a step ran or would run: a difference from its nearest earlier run.
type Cause struct {
	Kind CauseKind `json:"kind"`
	// Name is what differs: a variable, files as the Dockerfile names them, an option, a place in a Dockerfile.
	Name string `json:"name,omitempty"`
	// Old and New are the values, cut where they are long; both are empty where they are secret or have no text.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
	// Files are those that differ, by path, at most MaxFileChanges; More counts the rest.
	Files []FileChange `json:"files,omitempty"`
	More  int          `json:"more,omitempty"`
	// Step is the step of the same graph that this one follows from, for CauseInput.
	Step digest.Digest `json:"step,omitempty"`
}

// CauseKind says what a Cause is about.
type CauseKind string

// The kinds of Cause. All but CauseInput are reasons of the step's own, from which those of other steps follow.
const (
	CauseForced      CauseKind = "forced"      // no-cache asked for it
	CauseNew         CauseKind = "new"         // no earlier run of it is known
	CauseBase        CauseKind = "base"        // the image that it stands on: old and new reference with digest
	CauseInstruction CauseKind = "instruction" // its text in the Dockerfile
	CauseVariable    CauseKind = "variable"    // a build argument or an environment variable
	CauseOption      CauseKind = "option"      // user, working directory, platform, a mount, …
	CauseFiles       CauseKind = "files"       // files that it reads from a context or another step
	CausePruned      CauseKind = "pruned"      // nothing differs, but the cache no longer has the result
	CauseAsked       CauseKind = "asked"       // its server is asked at every build
	CauseInput       CauseKind = "input"       // another step that ran, or would run
	CauseUnknown     CauseKind = "unknown"     // the engine does not say
)

// MaxFileChanges is how many files one Cause lists.
const MaxFileChanges = 100

// FileChange is one file that differs.
type FileChange struct {
	Path string `json:"path"` // in the context or step that it is read from
	// How is added, removed or changed; mode where nothing but the permissions changed, with the old and the new ones.
	How string `json:"how"`
}

// Own says whether the cause is one of the step's own, and not what follows from another step.
func (c Cause) Own() bool { return c.Kind != CauseInput }

// shownFiles is how many files the text of a cause names.
const shownFiles = 3

// String is the cause in one line. name gives the name of a step; nil speaks of "another step".
func (c Cause) String() string { return c.Text(nil) }

// Text is the cause in one line, with the names of steps as name gives them.
func (c Cause) Text(name func(digest.Digest) string) string {
	switch c.Kind {
	case CauseForced:
		return "no-cache asked for it"
	case CauseNew:
		return "no earlier run of it is known"
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
	case CauseAsked:
		return "its server is asked at every build"
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
	return "the engine does not say why"
}

// maxShownStep is how much of a step's name a cause has, in bytes.
const maxShownStep = 60

func shortName(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxShownStep {
		s = strings.ToValidUTF8(s[:maxShownStep], "") + "…"
	}
	return s
}

// change is what became of a value.
func change(old, new string) string {
	switch {
	case old == "" && new == "":
		return "changed"
	case old == "":
		return "is new: " + new
	case new == "":
		return "is gone, it was " + old
	}
	return "changed: " + old + " → " + new
}

func (c Cause) filesText() string {
	if len(c.Files) == 0 {
		return "the files of " + c.Name + " changed"
	}
	return "files changed: " + c.shortFiles()
}

// shortFiles names the first files and counts the rest.
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

// String is the file, with what became of it unless it just changed.
func (f FileChange) String() string {
	if f.How == "changed" {
		return f.Path
	}
	return f.Path + " (" + f.How + ")"
}

// ReasonOf is the first of the causes of a step in words, and how many there are besides.
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

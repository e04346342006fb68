package remotecache

import (
	"fmt"
	"unicode/utf8"
)

// Bounds of the texts of one element, in bytes. A build keeps some of them in memory and stores them, so a cache must
// not choose their size. They leave room for what exports hold: the longest argument or variable of Linux has 128 KiB,
// an answer of a look-up may be the list of a large directory.
const (
	maxName       = 64 << 10 // of a step, an id of a cache mount, or a path
	maxShownName  = 4 << 10  // of a step, where an export shortens it; earlier versions did not
	maxPart       = 256 << 10
	maxAnswer     = 4 << 20
	maxShort      = 256 // an encoding or a media type
	maxParts      = 100_000
	maxLookups    = 200_000
	maxSelections = 10_000
)

// Fits returns an error if a text or list of the entry is too large for an index.
func (e *Entry) Fits() error {
	long := func(what string, bound int) error {
		return fmt.Errorf("%w: entry %.80q has %s longer than %d", errDamaged, e.Name, what, bound)
	}
	switch {
	case len(e.Name) > maxName:
		return long("a name", maxName)
	case len(e.Inputs) > maxParts:
		return long("a list of key parts", maxParts)
	case len(e.Lookups) > maxLookups:
		return long("a list of look-ups", maxLookups)
	case len(e.Selections) > maxSelections:
		return long("a list of selections", maxSelections)
	case len(e.Aliases) > maxAliases:
		return long("a list of aliases", maxAliases)
	}
	for _, p := range e.Inputs {
		if max(len(p.Name), len(p.Digest), len(p.Value)) > maxPart {
			return long("a key part", maxPart)
		}
	}
	for _, l := range e.Lookups {
		if len(l.Path) > maxName || len(l.Answer) > maxAnswer {
			return long("a look-up", maxAnswer)
		}
	}
	for _, s := range e.Selections {
		if len(s.Name) > maxPart || len(s.Digest) > maxShort {
			return long("a selection", maxPart)
		}
	}
	return nil
}

// Shorten cuts a long name of a step, such as that of a here-document. No key depends on it.
func (e *Entry) Shorten() {
	if len(e.Name) <= maxShownName {
		return
	}
	end := maxShownName
	for end > 0 && !utf8.RuneStart(e.Name[end]) {
		end--
	}
	e.Name = e.Name[:end]
}

// short reports whether all texts of a layer are.
func (l *Layer) short() bool {
	for _, p := range l.Packed {
		if len(p.Encoding) > maxShort || len(p.MediaType) > maxShort {
			return false
		}
	}
	for _, b := range []*Blob{l.Blob, l.Paths} {
		if b != nil && len(b.MediaType) > maxShort {
			return false
		}
	}
	return len(l.Encoding) <= maxShort && len(l.Packed) <= maxEncodings
}

package config

import (
	"bytes"
	"strings"
)

// The marks that git leaves where two sides of a merge changed the same lines.
const (
	markOurs   = "<<<<<<<"
	markBase   = "|||||||"
	markMiddle = "======="
	markTheirs = ">>>>>>>"
)

// ReadConflictedLock reads a lock file in which a merge left its marks: what one side has or both agree on is kept, and the
// keys that they pin to different things are given apart. Without marks nothing is conflicted; nil where there is no file.
func ReadConflictedLock(dir string) (lock *Lock, conflicted []string, err error) {
	src, err := readLockFile(dir, Disk{})
	if src == nil || err != nil {
		return nil, nil, err
	}
	sides := splitConflict(src)
	ours, err := ParseLock(LockName+" (our side)", sides[0])
	if err != nil {
		return nil, nil, err
	}
	theirs, err := ParseLock(LockName+" (their side)", sides[1])
	if err != nil {
		return nil, nil, err
	}
	for _, key := range theirs.Keys() {
		switch pin := ours.Pin(key); {
		case pin == "":
			ours.copyPin(theirs, key)
		case pin != theirs.Pin(key) || ours.Images[key].From != theirs.Images[key].From:
			conflicted = append(conflicted, key)
			ours.Delete(key)
		}
	}
	return ours, conflicted, nil
}

// take copies the pin of a key.
func (l *Lock) copyPin(from *Lock, key string) {
	if p, ok := from.Images[key]; ok {
		l.Images[key] = p
	}
	if p, ok := from.Git[key]; ok {
		l.Git[key] = p
	}
	if p, ok := from.HTTP[key]; ok {
		l.HTTP[key] = p
	}
}

// splitConflict gives both sides of a text with the marks of a merge; what git shows of their common ancestor is left out.
func splitConflict(src []byte) (sides [2][]byte) {
	const both, ours, base, theirs = 0, 1, 2, 3
	at := both
	for line := range bytes.Lines(src) {
		mark := string(line[:min(len(line), len(markOurs))])
		switch {
		case mark == markOurs:
			at = ours
		case mark == markBase && at == ours:
			at = base
		case strings.HasPrefix(mark, markMiddle) && at != both:
			at = theirs
		case mark == markTheirs && at == theirs:
			at = both
		default:
			if at == both || at == ours {
				sides[0] = append(sides[0], line...)
			}
			if at == both || at == theirs {
				sides[1] = append(sides[1], line...)
			}
		}
	}
	return sides
}

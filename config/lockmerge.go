package config

import (
	"bytes"
	"strings"
)

// The markers that git writes around conflicting lines.
const (
	markOurs   = "<<<<<<<"
	markBase   = "|||||||"
	markMiddle = "======="
	markTheirs = ">>>>>>>"
)

// ReadConflictedLock reads a lock file with the conflict markers of a merge. The returned lock has the pins that only
// one side has or on which both agree. conflicted lists the keys with different pins, which the caller must resolve
// again. Without markers conflicted is empty. If there is no file, lock is nil.
//
// Both sides are parsed as complete files, so a marker inside of a block is harmless. Keeping a pin that only one side
// has is safe: bake pin removes it if no target uses it. Choosing a side for a conflicting pin is not, because the
// file does not say which one is newer. TestConflictedLock covers both conflict styles of git.
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

// copyPin copies the pin of a key from another lock.
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

// splitConflict returns both sides of a text with conflict markers. The common ancestor of the diff3 style is dropped.
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

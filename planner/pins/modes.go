package pins

import (
	"fmt"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// Mode is how a plan uses bake.lock.
type Mode string

// The modes. The empty Mode is Auto, except where ReadLock chooses Frozen.
const (
	Auto   Mode = "auto"   // use pins and resolve missing ones
	Frozen Mode = "frozen" // fail if a pin is missing
	Locked Mode = "locked" // as Frozen; also fail on unused pins
	Off    Mode = "off"    // ignore bake.lock
)

// ParseMode checks the name of a mode. The empty name is allowed.
func ParseMode(name string) (Mode, error) {
	switch m := Mode(name); m {
	case "", Auto, Frozen, Locked, Off:
		return m, nil
	}
	return "", fmt.Errorf("expected %s, %s, %s or %s", Auto, Frozen, Locked, Off)
}

// Lock is the lock file of a project and the mode in which a plan uses it. The zero value pins nothing.
type Lock struct {
	File *config.Lock // nil if there is no file, or the mode is Off
	Mode Mode
}

// Frozen reports whether a missing pin is an error.
func (l Lock) Frozen() bool { return l.Mode == Frozen || l.Mode == Locked }

// ReadLock reads the lock file in dir for a plan. If mode is empty and there is a file, freeze selects Frozen; commands
// set it in CI and offline. Frozen and Locked need a file: without one the error is a *planner.LockError.
func ReadLock(dir string, mode Mode, freeze bool) (Lock, error) {
	l := Lock{Mode: mode}
	if mode == Off {
		return l, nil
	}
	var err error
	if l.File, err = config.ReadLock(dir); err != nil {
		return l, err
	}
	if l.Mode == "" && l.File != nil && freeze {
		l.Mode = Frozen
	}
	if l.File == nil && l.Frozen() {
		return l, noLock(dir)
	}
	return l, nil
}

// ReadExisting is config.ReadLock for a command that needs the file: a missing one is a *planner.LockError.
func ReadExisting(dir string) (*config.Lock, error) {
	lock, err := config.ReadLock(dir)
	if err == nil && lock == nil {
		err = noLock(dir)
	}
	return lock, err
}

func noLock(dir string) error {
	return &planner.LockError{What: fmt.Sprintf("%s not found in %s; create and commit it: bake pin", config.LockName,
		dir)}
}

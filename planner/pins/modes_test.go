package pins

import (
	"errors"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// TestReadLock covers each mode, with and without a file. Only an empty mode depends on freeze.
func TestReadLock(t *testing.T) {
	without, with := t.TempDir(), t.TempDir()
	if err := config.NewLock().Write(with); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		dir    string
		mode   Mode
		freeze bool
		read   bool // a file is read
		frozen bool
		fails  bool
	}{
		{dir: without}, {dir: without, freeze: true}, {dir: without, mode: Auto, freeze: true},
		{dir: without, mode: Frozen, frozen: true, fails: true},
		{dir: without, mode: Locked, frozen: true, fails: true},
		{dir: without, mode: Off, freeze: true},
		{dir: with, read: true}, {dir: with, freeze: true, read: true, frozen: true},
		{dir: with, mode: Auto, freeze: true, read: true}, {dir: with, mode: Frozen, read: true, frozen: true},
		{dir: with, mode: Locked, read: true, frozen: true}, {dir: with, mode: Off, freeze: true},
	} {
		l, err := ReadLock(c.dir, c.mode, c.freeze)
		var missing *planner.LockError
		if errors.As(err, &missing) != c.fails || !c.fails && err != nil {
			t.Errorf("%+v: got error %v", c, err)
		}
		if (l.File != nil) != c.read || l.Frozen() != c.frozen {
			t.Errorf("%+v: got %+v", c, l)
		}
	}
}

func TestParseMode(t *testing.T) {
	for name, want := range map[string]Mode{"": "", "auto": Auto, "frozen": Frozen, "locked": Locked, "off": Off} {
		if got, err := ParseMode(name); got != want || err != nil {
			t.Errorf("%q: got %q, %v", name, got, err)
		}
	}
	if _, err := ParseMode("never"); err == nil {
		t.Error("an unknown mode is accepted")
	}
}

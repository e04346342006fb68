package remotecache

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// killedVariable says, to a process of this test, "DIR N": export to DIR and die half-way through blob N.
const killedVariable = "BAKE_TEST_KILLED_EXPORT"

var killedTexts = []string{"a", "b", "c", "d", "e", "f"}

// TestDirKilled kills an export half-way through each of its blobs: what is there afterwards is whole or missing, and
// the next export leaves everything and nothing else.
func TestDirKilled(t *testing.T) {
	if order := os.Getenv(killedVariable); order != "" {
		dir, at, _ := strings.Cut(order, " ")
		exportAndDie(t, dir, at)
		return
	}
	blobs := 2 * len(killedTexts)
	for at := range blobs {
		t.Run(strconv.Itoa(at), func(t *testing.T) {
			dir := t.TempDir()
			if err := (&Dir{Path: dir}).Export(t.Context(), sample("a", "b", "old")); err != nil {
				t.Fatal(err)
			}
			killExport(t, dir, at)
			readDir(t, dir, false)
			if err := (&Dir{Path: dir}).Export(t.Context(), sample(killedTexts...)); err != nil {
				t.Fatal(err)
			}
			if n := readDir(t, dir, true); n != blobs {
				t.Errorf("%d blobs of %d", n, blobs)
			}
			names, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range names {
				if strings.HasPrefix(n.Name(), prefixTemp) {
					t.Errorf("%s is still there", n.Name())
				}
			}
		})
	}
}

// killExport has another process export, which dies; one that needs fewer blobs ends.
func killExport(t *testing.T, dir string, at int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestDirKilled$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", killedVariable, dir, at))
	out, err := cmd.CombinedOutput()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if killed := ok && status.Signaled() && status.Signal() == syscall.SIGKILL; !killed &&
		(err != nil || at < len(killedTexts)) {
		t.Fatalf("%v\n%s", err, out)
	}
}

func exportAndDie(t *testing.T, dir, at string) {
	n, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	e := sample(killedTexts...)
	var opened atomic.Int64
	open := e.Open
	e.Open = func(ctx context.Context, b Blob) (io.ReadCloser, error) {
		r, err := open(ctx, b)
		if opened.Add(1) == n+1 {
			r = io.NopCloser(io.MultiReader(io.LimitReader(r, b.Size/2), deadly{}))
		}
		return r, err
	}
	if err := (&Dir{Path: dir}).Export(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// deadly ends the process that reads it.
type deadly struct{}

func (deadly) Read([]byte) (int, error) {
	return 0, syscall.Kill(os.Getpid(), syscall.SIGKILL)
}

package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bakebuild/bake/executor/executortest"
)

// TestThreeDaemons shows that three daemons share fifty targets, and that all images are right though one is killed.
func TestThreeDaemons(t *testing.T) {
	registry := serveBases(t)
	c := newCLI(t)
	var daemons []*daemon
	var engines strings.Builder
	for i := range 3 {
		d := startDaemon(t, "")
		daemons = append(daemons, d)
		fmt.Fprintf(&engines, "engine \"e%d\" {\n  address = %q\n}\n", i, d.address)
	}
	const n = 50
	c.write(t, "bake.hcl", serviceProject(registry, n)+engines.String())
	cmd := bakeCommand(t, "build", "--progress=plain", "--allow=fs=*")
	cmd.Dir, cmd.Env = c.dir, append(os.Environ(), "BAKE_CACHE_DIR="+c.cache)
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	runs, done := map[string]bool{}, 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		said.WriteString(line + "\n")
		id, what, _ := strings.Cut(line, " ")
		runs[id] = runs[id] || strings.Contains(what, "RUN sleep")
		if runs[id] && strings.HasPrefix(what, "DONE") {
			if done++; done == n/2 {
				daemons[1].kill()
			}
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, said.String())
	}
	wantMatch(t, "the daemon was at work", said.String(),
		daemons[1].address+": connection lost.*continuing on the other engines")
	for i := range n {
		text, err := executortest.ReadImage(filepath.Join(c.dir, fmt.Sprintf("out/t%d.tar", i)))
		if err != nil {
			t.Fatal(err)
		}
		wantMatch(t, fmt.Sprintf("target t%d", i), text, fmt.Sprintf(`(?m) "?%d\\n"? /?n$`, i))
	}
}

package embedded

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestUserOfChain: each step runs as who the passwd file of its own root says, however far below that file was written,
// and whatever it is reached through.
func TestUserOfChain(t *testing.T) {
	s := newSite(t, map[string]string{
		"one/passwd": "app:x:1:1::/:\n", "two/passwd": "app:x:2:2::/:\n", "three/passwd": "app:x:3:3::/:\n",
		"Dockerfile": `FROM scratch
COPY one /real
COPY links /
USER app
RUN ["write", "/a", "x"]
RUN ["print", "nothing"]
RUN ["write", "/real/other", "x"]
RUN ["write", "/real/passwd", "app:x:4:4::/:"]
RUN ["write", "/b", "x"]
COPY two /real
RUN ["write", "/c", "x"]
COPY three/passwd /elsewhere/passwd
RUN ["write", "/d", "x"]
COPY other /
RUN ["write", "/e", "x"]
RUN ["print", "the end"]
`,
	})
	for dir, to := range map[string]string{"links": "real", "other": "elsewhere"} {
		if err := os.Mkdir(filepath.Join(s.dir, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(s.dir, dir, "etc")); err != nil {
			t.Fatal(err)
		}
	}
	s.must("print nothing", "print the end", "write /a x", "write /b x", "write /c x", "write /d x", "write /e x",
		"write /real/other x",
		"write /real/passwd app:x:4:4::/:")
	if want := []uint32{1, 1, 1, 1, 4, 2, 2, 3, 3}; !slices.Equal(s.runner.uids, want) {
		t.Errorf("steps ran as %v, want %v", s.runner.uids, want)
	}
}

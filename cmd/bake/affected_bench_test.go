package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/bakebuild/bake/executor/executortest"
)

// BenchmarkAffected compares revisions of a project with 500 targets and 12,500 files. The cost should follow the size
// of the change: files and targets that both revisions share are read and planned once.
func BenchmarkAffected(b *testing.B) {
	repo := executortest.Monorepo{Services: 500, LibraryFiles: 2000, ServiceFiles: 20, Base: "scratch", Tool: "/tool"}
	dir := b.TempDir()
	a := &app{stdout: io.Discard, stderr: os.Stderr, dir: dir, environ: environment()}
	a.environ["BAKE_CACHE_DIR"] = b.TempDir()
	git := func(args ...string) {
		cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=a", "-c", "user.email=a@b"}, args...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	edit := func(name, text string) {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteString(text)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := repo.Write(dir); err != nil {
		b.Fatal(err)
	}
	git("init", "-q")
	commit := func() {
		git("add", "-A")
		git("commit", "-q", "--allow-empty", "-m", "x")
	}
	commit()
	compare := func(name string, args ...string) {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if code := a.run(context.Background(), append([]string{"affected"}, args...)); code != 0 {
					b.Fatal(code)
				}
			}
		})
	}
	compare("nothing", "--since", "HEAD")
	edit(repo.ServiceFile(7), "changed")
	compare("a file", "--since", "HEAD")
	edit("services/"+repo.Name(8)+".Dockerfile", "USER 1\n")
	compare("a Dockerfile", "--since", "HEAD")
	commit()
	edit("docker-bake.hcl", "# changed\n")
	commit()
	compare("two commits", "--since", "HEAD~2", "--until", "HEAD~1")
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bakebuild/bake/executor/executortest"
)

// project is what a series builds.
type project struct {
	targets []string
	// write writes the project into a directory. The same project has the same bytes.
	write func(dir string) error
}

// services returns a monorepo: a shared base stage with a RUN and a COPY of a library, and a COPY and a RUN per
// service.
func (b *bench) services(count int) (project, executortest.Monorepo) {
	repo := executortest.Monorepo{
		Services: count, LibraryFiles: 2000, ServiceFiles: 20, Base: b.registry + "/" + smallBase,
		Tool: executortest.ToolPath,
	}
	p := project{write: repo.Write}
	for i := range count {
		p.targets = append(p.targets, repo.Name(i))
	}
	return p, repo
}

// single returns a project of one target with a tree of files in its context.
func single(dockerfile string, tree files) project {
	write := func(dir string) error {
		bakefile := "target \"default\" {\n  tags = [\"bench\"]\n}\n"
		return errors.Join(writeFile(dir, "docker-bake.hcl", []byte(bakefile)),
			writeFile(dir, "Dockerfile", []byte(dockerfile)),
			tree.each(func(name string, content []byte) error { return writeFile(dir, name, content) }))
	}
	return project{[]string{"default"}, write}
}

// chain returns a project with a chain of RUN steps. Only every third step creates a file, because an overlay has at
// most 500 layers; the others write to a temporary file system.
func (b *bench) chain(steps int) project {
	var text strings.Builder
	fmt.Fprintf(&text, "FROM %s/%s\n", b.registry, smallBase)
	for i := range steps {
		mount, file := "", "/out"
		if i%3 != 0 {
			mount, file = "--mount=type=tmpfs,target=/scratch ", "/scratch/out"
		}
		fmt.Fprintf(&text, "RUN %s[%q, \"%s-%d\"]\n", mount, executortest.ToolPath, file, i)
	}
	return single(text.String(), files{})
}

func writeFile(dir, name string, content []byte) error {
	path := filepath.Join(dir, name)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644))
}

// files is a generated tree with a number of files, 100 in each directory, and a total size in bytes. They compress to
// about half their size, like a mix of programs and text.
type files struct{ count, bytes int }

// first is the name of a file that every nonempty tree contains.
const first = "tree/00/00/file000000"

// each calls yield for every file, sorted by name. The content is valid only during the call.
func (f files) each(yield func(name string, content []byte) error) error {
	random := rand.NewChaCha8([32]byte{})
	draw := rand.New(random)
	text := randomText(draw, 1<<20)
	for i := range f.count {
		// Sizes vary as in a root file system: most files are small.
		size := f.bytes / f.count * []int{1, 2, 3, 4, 10, 40, 1, 3}[i%8] / 8
		content := make([]byte, 0, size)
		for len(content) < size {
			n := min(size-len(content), 2048)
			if draw.IntN(8) < 3 {
				content = content[:len(content)+n]
				random.Read(content[len(content)-n:])
				continue
			}
			at := draw.IntN(len(text) - n)
			content = append(content, text[at:at+n]...)
		}
		if err := yield(fmt.Sprintf("tree/%02d/%02d/file%06d", i/10000, i/100%100, i), content); err != nil {
			return err
		}
	}
	return nil
}

// randomText returns a text of at least size bytes.
func randomText(draw *rand.Rand, size int) []byte {
	vocabulary := strings.Fields("bake graph layer step image cache key base pin target plan run func return error " +
		"context")
	var b bytes.Buffer
	for b.Len() < size {
		fmt.Fprintf(&b, "%s%x ", vocabulary[draw.IntN(len(vocabulary))], draw.IntN(4096))
	}
	return slices.Clip(b.Bytes())
}

// Package executortest provides generated projects, hermetic base images and the conformance cases for tests and
// benchmarks of engines. Only tests and benchmarks may import it.
package executortest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// Monorepo describes a generated repository: services that share a base stage and a library.
type Monorepo struct {
	Services     int
	LibraryFiles int // files below lib/, about 3 kB each, in directories of 50
	ServiceFiles int // files of each service
	Base         string
	// Tool is a program in the base image that the RUN steps call as `Tool PATH`. It writes a file at PATH whose
	// content depends only on the path. The base needs no shell.
	Tool string
}

// Write writes the repository to dir: docker-bake.hcl, lib/ and services/. Equal descriptions give equal bytes.
func (m Monorepo) Write(dir string) error {
	random := rand.New(rand.NewPCG(1, 2))
	for i := range m.LibraryFiles {
		name := filepath.Join(dir, "lib", fmt.Sprintf("pkg%02d", i/50), fmt.Sprintf("file%04d.txt", i))
		if err := writeFile(name, text(random, 3000)); err != nil {
			return err
		}
	}
	for i := range m.Services {
		if err := m.writeService(dir, i, random); err != nil {
			return err
		}
	}
	return writeFile(filepath.Join(dir, "docker-bake.hcl"), m.projectFile())
}

// ServiceFile returns the path of a file that only service i reads.
func (m Monorepo) ServiceFile(i int) string {
	return filepath.Join("services", m.Name(i), "file00.txt")
}

// LibraryFile returns the path of a file that every service reads.
func (m Monorepo) LibraryFile() string { return filepath.Join("lib", "pkg00", "file0000.txt") }

// Name returns the target name of service i.
func (m Monorepo) Name(i int) string { return fmt.Sprintf("svc%03d", i) }

func (m Monorepo) writeService(dir string, i int, random *rand.Rand) error {
	name := m.Name(i)
	for f := range m.ServiceFiles {
		file := filepath.Join(dir, "services", name, fmt.Sprintf("file%02d.txt", f))
		if err := writeFile(file, name+"\n"+text(random, 1500)); err != nil {
			return err
		}
	}
	dockerfile := strings.NewReplacer("BASE", m.Base, "TOOL", m.Tool, "NAME", name).Replace(`FROM BASE AS base
RUN ["TOOL", "/base.out"]
COPY lib /lib

FROM base
WORKDIR /app
COPY services/NAME /app
RUN ["TOOL", "/app/NAME.out"]
ENV SERVICE=NAME
CMD ["TOOL"]
`)
	return writeFile(filepath.Join(dir, "services", name+".Dockerfile"), dockerfile)
}

func (m Monorepo) projectFile() string {
	var b strings.Builder
	var names []string
	for i := range m.Services {
		names = append(names, fmt.Sprintf("%q", m.Name(i)))
	}
	fmt.Fprintf(&b, "group \"default\" {\n  targets = [%s]\n}\n", strings.Join(names, ", "))
	for i := range m.Services {
		fmt.Fprintf(&b, "\ntarget %q {\n  dockerfile = \"services/%s.Dockerfile\"\n  tags = [\"mono/%s\"]\n}\n",
			m.Name(i), m.Name(i), m.Name(i))
	}
	return b.String()
}

// text returns about n bytes that compress like source text.
func text(random *rand.Rand, n int) string {
	vocabulary := []string{"bake", "graph", "layer", "step", "image", "cache", "key", "base", "pin", "target", "plan",
		"run"}
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%s%x ", vocabulary[random.IntN(len(vocabulary))], random.IntN(4096))
		if random.IntN(12) == 0 {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func writeFile(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, []byte(content), 0o644)
}

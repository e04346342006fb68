package executortest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// ToolPath is the path of the program in ToolImage.
const ToolPath = "/bin/tool"

// toolSource is the program of ToolImage. It writes a fixed text to each of the given paths.
const toolSource = `package main

import "os"

func main() {
	for _, path := range os.Args[1:] {
		if err := os.WriteFile(path, []byte("output of tool: "+path+"\n"), 0o644); err != nil {
			println(err.Error())
			os.Exit(1)
		}
	}
}
`

// ToolImage returns a hermetic base image. Its one layer holds /bin/tool, a static program that writes a file to each
// given path, and /bin/true. The program is compiled in dir with the Go toolchain of this machine.
func ToolImage(dir string) (v1.Image, error) {
	binary, err := buildTool(dir)
	if err != nil {
		return nil, fmt.Errorf("create the base image: %w", err)
	}
	nothing, err := TrueProgram()
	if err != nil {
		return nil, fmt.Errorf("create the base image: %w", err)
	}
	contents := map[string][]byte{"bin/tool": binary, "bin/true": nothing}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	for _, h := range []*tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "bin/tool", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(binary))},
		{Name: "bin/true", Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(nothing))},
		{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
	} {
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(contents[h.Name]); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer.Bytes())), nil
	})
	if err != nil {
		return nil, err
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Env = []string{"PATH=/bin"}
	return mutate.ConfigFile(image, config)
}

func buildTool(dir string) ([]byte, error) {
	source := filepath.Join(dir, "tool.go")
	if err := os.WriteFile(source, []byte(toolSource), 0o644); err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "tool")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return os.ReadFile(out)
}

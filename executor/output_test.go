package executor_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// invalidOutput is a set of outputs of one image, with a part of the error that Validate returns; "" for none.
type invalidOutput struct {
	outputs []config.Attrs
	change  func(*planner.Image)
	want    string
}

// invalidOutputs returns cases by name. file is an existing file.
func invalidOutputs(file string) map[string]invalidOutput {
	return map[string]invalidOutput{
		"ok": {outputs: []config.Attrs{{"type": "oci", "dest": "a"},
			{"type": "cacheonly"}, {"type": "docker"}}},
		"no type":      {outputs: []config.Attrs{{"dest": "a"}}, want: "no type"},
		"unknown type": {outputs: []config.Attrs{{"type": "ocl"}}, want: `unknown type "ocl"`},
		"unknown attr": {outputs: []config.Attrs{{"type": "oci", "destt": "a"}},
			want: `unknown attribute "destt"`},
		"same path": {outputs: []config.Attrs{{"type": "oci", "dest": "a"},
			{"type": "tar", "dest": "./a"}}, want: "also an output"},
		"below a file": {outputs: []config.Attrs{{"type": "local", "dest": "a/b/c"},
			{"type": "tar", "dest": "a"}}, want: "/p/a/b/c is below /p/a, which is a file"},
		"below a directory": {outputs: []config.Attrs{{"type": "local", "dest": "a"},
			{"type": "tar", "dest": "a/b"}}},
		"below a file that is there": {outputs: []config.Attrs{{"type": "tar", "dest": file + "/a"}},
			want: "is below a file"},
		"file in the way": {outputs: []config.Attrs{{"type": "local", "dest": file}},
			want: "is not a directory"},
		"directory in the way of a tar": {outputs: []config.Attrs{{"type": "tar", "dest": filepath.Dir(file)}},
			want: "or use type=local"},
		"directory in the way of a layout": {outputs: []config.Attrs{{"type": "oci", "dest": filepath.Dir(file)}},
			want: "or use tar=false"},
		"stdout twice": {outputs: []config.Attrs{{"type": "oci"}, {"type": "tar"}},
			want: "stdout is also"},
		"not a bool": {outputs: []config.Attrs{{"type": "image", "push": "yess"}},
			want: "expected true or false"},
		"zstd docker": {outputs: []config.Attrs{{"type": "docker", "compression": "zstd"}},
			want: "oci-mediatypes"},
		"level": {outputs: []config.Attrs{{"type": "oci", "compression-level": "12"}},
			want: "0 to 9"},
		"local no dest": {outputs: []config.Attrs{{"type": "local"}}, want: "dest=DIR"},
		"docker multi": {outputs: []config.Attrs{{"type": "docker"}},
			change: func(i *planner.Image) { i.MultiPlatform = true },
			want:   "one platform"},
		"push without tag": {outputs: []config.Attrs{{"type": "registry"}},
			change: func(i *planner.Image) { i.Tags = nil }, want: "needs a tag"},
		"bad tag": {outputs: []config.Attrs{{"type": "image"}},
			change: func(i *planner.Image) { i.Tags = []string{"UPPER"} },
			want:   "image name"},
		"tag with a digest": {outputs: []config.Attrs{{"type": "image"}},
			change: func(i *planner.Image) { i.Tags = []string{"a:1@sha256:" + strings.Repeat("0", 64)} },
			want:   "has a digest"},
		"index annotation": {outputs: []config.Attrs{{"type": "image"}},
			change: func(i *planner.Image) { i.Annotations = []string{"index:a=b"} }},
		"index annotation of docker": {outputs: []config.Attrs{{"type": "docker"}},
			change: func(i *planner.Image) { i.Annotations = []string{"index:a=b"} },
			want:   "no index"},
		"bad annotation": {outputs: []config.Attrs{{"type": "image"}},
			change: func(i *planner.Image) { i.Annotations = []string{"a"} },
			want:   "KEY=VALUE"},
		"annotation attr": {outputs: []config.Attrs{{"type": "image", "annotation-manifest[linux/amd64].a": "b",
			"annotation.c": "d"}}},
	}
}

func TestValidate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	mustWrite(t, file, "")
	for name, tt := range invalidOutputs(file) {
		t.Run(name, func(t *testing.T) {
			img := built(t, "api", "amd64", tt.outputs...).Image
			if tt.change != nil {
				tt.change(img)
			}
			err := executor.Validate([]*planner.Image{img}, "/p")
			var oe *executor.OutputError
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("err = %v", err)
			case tt.want != "" && (!errors.As(err, &oe) || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("err = %v, want %q", err, tt.want)
			}
		})
	}
}

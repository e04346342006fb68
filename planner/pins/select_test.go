package pins

import (
	"errors"
	"slices"
	"testing"

	"github.com/bakebuild/bake/config"
)

func TestSelectKeys(t *testing.T) {
	golang, mirror := "docker.io/library/golang:1.26", "registry.example.com:5000/team/base:1"
	git, tool := "https://github.com/acme/proto.git#main", "https://example.com/tool.tgz"
	keys := []string{golang, mirror, git, tool}
	project := &config.Project{Bases: map[string]config.Base{"shared": {Image: "team/base:1"}}}
	for name, want := range map[string][]string{
		"golang":                        {golang},
		"golang:1.26":                   {golang},
		golang:                          {golang},
		"golang:1.25":                   nil,
		"go":                            nil,
		"base":                          {mirror},
		"shared":                        {mirror},
		"registry.example.com:5000/*":   {mirror},
		"proto.git":                     {git},
		"proto.git#main":                {git},
		"tool.tgz":                      {tool},
		"https://*":                     {git, tool},
		"*":                             keys,
		"registry.example.com:5000/*:2": nil,
	} {
		selected, err := selectKeys(project, keys, []string{name})
		if want == nil {
			var usage *UsageError
			if !errors.As(err, &usage) {
				t.Errorf("%s: want a UsageError, got %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Error(err)
			continue
		}
		for _, key := range keys {
			if got := selected(key); got != slices.Contains(want, key) {
				t.Errorf("%s selects %s: got %v", name, key, got)
			}
		}
	}
}

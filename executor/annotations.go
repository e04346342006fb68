package executor

import (
	"fmt"
	"maps"
	"regexp"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// Annotation is one annotation of an image.
type Annotation struct {
	Level    string // manifest, manifest-descriptor, index, index-descriptor
	Platform string // normalised, "" for all
	Key      string
	Value    string
}

// Annotations are those of a target and its output, in order of increasing precedence.
type Annotations []Annotation

// annotationLevel matches "manifest" or "manifest[linux/amd64]".
const annotationLevel = `^([a-z-]+)(?:\[([A-Za-z0-9_/.-]+)\])?$`

// parseAnnotations reads "[LEVEL[,LEVEL…]:]KEY=VALUE" of a target and annotation[-LEVEL][[PLATFORM]].KEY of an output.
func parseAnnotations(list []string, attrs config.Attrs) (Annotations, error) {
	var out Annotations
	for _, s := range list {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return nil, fmt.Errorf("annotation %q: expected KEY=VALUE", s)
		}
		levels, key, ok := strings.Cut(k, ":")
		if !ok {
			levels, key = "manifest", k
		}
		for level := range strings.SplitSeq(levels, ",") {
			a, err := newAnnotation(strings.TrimSpace(level), key, v)
			if err != nil {
				return nil, fmt.Errorf("annotation %q: %w", s, err)
			}
			out = append(out, a)
		}
	}
	for name, v := range attrs {
		rest, ok := strings.CutPrefix(name, "annotation")
		if !ok {
			continue
		}
		level, key, ok := strings.Cut(rest, ".")
		if level = strings.TrimPrefix(level, "-"); level == "" || level[0] == '[' {
			level = "manifest" + level
		}
		a, err := newAnnotation(level, key, v)
		if err != nil || !ok {
			return nil, fmt.Errorf("attribute %q: expected annotation[-LEVEL].KEY", name)
		}
		out = append(out, a)
	}
	return out, nil
}

func newAnnotation(level, key, value string) (Annotation, error) {
	m := []string{level, level, ""}
	if strings.Contains(level, "[") { // compiled only if needed: thousands of targets may have annotations
		m = regexp.MustCompile(annotationLevel).FindStringSubmatch(level)
	}
	if m == nil || key == "" {
		return Annotation{}, fmt.Errorf("unknown level %q", level)
	}
	switch m[1] {
	case "manifest", "manifest-descriptor", "index", "index-descriptor":
	default:
		return Annotation{}, fmt.Errorf(
			"unknown level %q; use manifest, manifest-descriptor, index or index-descriptor", m[1])
	}
	a := Annotation{Level: m[1], Key: key, Value: value}
	if m[2] != "" {
		p, err := platforms.Parse(m[2])
		if err != nil {
			return a, err
		}
		a.Platform = platforms.FormatAll(platforms.Normalize(p))
	}
	return a, nil
}

// hasIndex reports whether an annotation belongs to an index.
func (as Annotations) hasIndex() bool {
	for _, a := range as {
		if strings.HasPrefix(a.Level, "index") {
			return true
		}
	}
	return false
}

// at returns the annotations of a level, nil for none. p is nil for levels without a platform.
func (as Annotations) at(level string, p *ocispecs.Platform) map[string]string {
	m := map[string]string{}
	for _, a := range as {
		if a.Level != level {
			continue
		}
		if a.Platform == "" || (p != nil && a.Platform == platforms.FormatAll(platforms.Normalize(*p))) {
			m[a.Key] = a.Value
		}
	}
	if len(m) == 0 {
		return nil
	}
	return maps.Clone(m)
}

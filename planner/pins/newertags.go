package pins

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/semver/v3"
)

// tagLists lists the tags of repositories, each repository once. It may be used by several goroutines.
type tagLists struct {
	registry Registry
	mu       sync.Mutex // guards the map, not the requests
	lists    map[string]*tagList
}

type tagList struct {
	once sync.Once
	tags []string
}

func newTagLists(r Registry) *tagLists {
	return &tagLists{registry: r, lists: map[string]*tagList{}}
}

// list returns the tags of a repository; none if the registry does not list them.
func (t *tagLists) list(ctx context.Context, repository string) []string {
	t.mu.Lock()
	l := t.lists[repository]
	if l == nil {
		l = &tagList{}
		t.lists[repository] = l
	}
	t.mu.Unlock()
	l.once.Do(func() { l.tags, _ = t.registry.Tags(ctx, repository) })
	return l.tags
}

// versionTag matches a tag that begins with a version: an optional v, one to three numbers, and a suffix such as
// -alpine, which is part of the kind of image.
var versionTag = regexp.MustCompile(`^(v?)(\d+(?:\.\d+){0,2})(-.*|)$`)

// newerTags returns the tags with a greater version than tag, newest first. Only tags of the same kind count: with as
// many numbers, and the same text before and after them. There are none if tag is not a version.
func newerTags(tag string, all []string) []string {
	old, ok := parseTag(tag)
	if !ok {
		return []string{}
	}
	type candidate struct {
		tag     string
		version *semver.Version
	}
	var found []candidate
	for _, t := range all {
		if v, ok := parseTag(t); ok && v.kind == old.kind && v.version.GreaterThan(old.version) {
			found = append(found, candidate{t, v.version})
		}
	}
	slices.SortFunc(found, func(a, b candidate) int { return b.version.Compare(a.version) })
	newer := make([]string, len(found))
	for i, c := range found {
		newer[i] = c.tag
	}
	return newer
}

// parsedTag is a tag split into its version and the kind of image.
type parsedTag struct {
	version *semver.Version
	kind    string
}

// minDate is the first major version that is taken for a date or a build number: 20240101 is not a release after 3.
const minDate = 10000

func parseTag(tag string) (parsedTag, bool) {
	m := versionTag.FindStringSubmatch(tag)
	if m == nil {
		return parsedTag{}, false
	}
	v, err := semver.NewVersion(m[2])
	if err != nil {
		return parsedTag{}, false
	}
	kind := m[1] + strings.Repeat(".", strings.Count(m[2], ".")) + m[3]
	if v.Major() >= minDate {
		kind += " date"
	}
	return parsedTag{v, kind}, true
}

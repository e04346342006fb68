package main

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/semver/v3"

	"github.com/bakebuild/bake/executor/registry"
)

// tagLists asks for the tags of each repository once.
type tagLists struct {
	client *registry.Client
	mu     sync.Mutex
	lists  map[string]*tagList
}

type tagList struct {
	once sync.Once
	tags []string
}

func newTagLists(c *registry.Client) *tagLists {
	return &tagLists{client: c, lists: map[string]*tagList{}}
}

// of is the tags of a repository; none where its registry does not list them.
func (t *tagLists) of(ctx context.Context, repository string) []string {
	t.mu.Lock()
	l := t.lists[repository]
	if l == nil {
		l = &tagList{}
		t.lists[repository] = l
	}
	t.mu.Unlock()
	l.once.Do(func() { l.tags, _ = t.client.Tags(ctx, repository) })
	return l.tags
}

// versionTag is a tag that begins with a version: v, numbers, and the rest, which says what kind of image it is.
var versionTag = regexp.MustCompile(`^(v?)(\d+(?:\.\d+){0,2})(-.*|)$`)

// newerTags are the tags with a greater version than one, newest first, and of its kind: as many numbers, the same before and
// after them. None where the tag is no version.
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

// parsedTag is a tag as a version and the kind of image.
type parsedTag struct {
	version *semver.Version
	kind    string
}

// maxMajor is where versions are taken for dates and numbers of builds: 20240101 is no release after 3.
const maxMajor = 10000

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
	if v.Major() >= maxMajor {
		kind += " date"
	}
	return parsedTag{v, kind}, true
}

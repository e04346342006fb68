package scaffold

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// generic reports whether the name of a directory says nothing about what is in it.
func generic(name string) bool {
	switch strings.ToLower(name) {
	case "docker", "dockerfiles", "dockerfile", "container", "containers", "build", "builds", "image", "images", "src",
		"ci", "deploy", "deployment", "default", ".", "":
		return true
	}
	return false
}

// suffixOf returns what the name of a Dockerfile adds: dev for Dockerfile.dev, Dockerfile-dev and dev.Dockerfile.
func suffixOf(file string) string {
	lower := strings.ToLower(file)
	for _, word := range []string{"dockerfile", "containerfile"} {
		if strings.HasPrefix(lower, word) {
			return strings.Trim(file[len(word):], ".-_")
		}
		if strings.HasSuffix(lower, "."+word) {
			return strings.Trim(file[:len(file)-len(word)], ".-_")
		}
	}
	return ""
}

// namesOf returns a name for each Dockerfile: its directory, the first one above that says what it is, and what its own
// name adds. Equal names get the directories above them until they differ, then the names of the files. used holds the
// names that are taken.
func namesOf(root string, dockerfiles []string, used map[string]bool) []string {
	names := make([]string, len(dockerfiles))
	levels := make([]int, len(dockerfiles)) // directories in the name, besides the first
	count := map[string]int{}
	for range 32 { // more levels than any path needs
		clear(count)
		for i, f := range dockerfiles {
			names[i] = nameOf(root, f, levels[i])
			count[names[i]]++
		}
		same := false
		for i, f := range dockerfiles {
			if (count[names[i]] > 1 || used[names[i]]) && levels[i] < strings.Count(f, "/") {
				levels[i]++
				same = true
			}
		}
		if !same {
			break
		}
	}
	for i, name := range names {
		base := path.Base(dockerfiles[i])
		if word := strings.ToLower(base); count[name] > 1 && base != "Dockerfile" && suffixOf(base) == "" {
			name += "-" + word
		}
		names[i] = name
		for n := 2; used[names[i]]; n++ {
			names[i] = fmt.Sprintf("%s-%d", name, n)
		}
		used[names[i]] = true
	}
	return names
}

// nameOf returns the name of a Dockerfile with more directories above.
func nameOf(root, dockerfile string, more int) string {
	suffix := suffixOf(path.Base(dockerfile))
	var parts []string
	for dir := path.Dir(dockerfile); dir != "."; dir = path.Dir(dir) {
		parts = append([]string{path.Base(dir)}, parts...)
	}
	kept := slices.DeleteFunc(slices.Clone(parts), generic)
	switch n := 1 + more; {
	case len(kept) >= n:
		kept = kept[len(kept)-n:]
	case more > 0 && len(parts) >= n:
		kept = parts[len(parts)-n:] // the generic names are what differs
	case len(kept) == 0 && suffix == "" || len(kept) == 0 && len(parts) == 0:
		kept = []string{root}
	}
	if suffix != "" && !slices.Contains(kept, suffix) {
		kept = append(kept, suffix)
	}
	name := sanitized(strings.Join(kept, "-"))
	switch name {
	case "":
		return "app"
	case "default": // the name of the group
		return sanitized(root + "-default")
	}
	return name
}

// sanitized replaces the characters that a name must not have.
func sanitized(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '-'
	}, s)
	return strings.Trim(s, "-_")
}

// imageName returns a name as that of an image: lower-case letters and digits, with single hyphens in between.
func imageName(name string) string {
	parts := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	if len(parts) == 0 {
		return "app"
	}
	return strings.Join(parts, "-")
}

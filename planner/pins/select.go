package pins

import (
	"fmt"
	"strings"

	"github.com/bakebuild/bake/config"
)

// selectKeys returns a function that reports whether one of the names matches a key. Names are patterns for matches, or
// base blocks of the project, which stand for their image. No names match every key. A name that matches none of the
// keys is an error.
func selectKeys(p *config.Project, keys, names []string) (func(key string) bool, error) {
	selected := map[string]bool{}
	for _, name := range names {
		pattern := name
		if b, ok := p.Bases[name]; ok {
			pattern = b.Image
		}
		found := false
		for _, key := range keys {
			if matches(pattern, key) {
				selected[key], found = true, true
			}
		}
		if !found {
			return nil, noMatch(name, keys)
		}
	}
	return func(key string) bool { return selected[key] || len(names) == 0 }, nil
}

// noMatch returns the error about a name that matches none of the keys.
func noMatch(name string, keys []string) error {
	if len(keys) == 0 {
		return &UsageError{fmt.Errorf("no reference matches %q; the project uses no image, git repository "+
			"or URL to pin", name)}
	}
	return &UsageError{fmt.Errorf("no reference matches %q; choose from: %s", name, strings.Join(keys, ", "))}
}

// matches reports whether a pattern matches a key of the lock: all of it, or its end after a slash. A pattern without a
// tag (or #REF of a git repository) matches any. In a pattern * stands for any text.
func matches(pattern, key string) bool {
	short := key
	if i := strings.LastIndexAny(key, ":#"); i > strings.LastIndex(key, "/") {
		short = key[:i]
	}
	for _, whole := range []string{key, short} {
		for rest := whole; ; {
			if glob(pattern, rest) {
				return true
			}
			_, after, ok := strings.Cut(rest, "/")
			if !ok {
				break
			}
			rest = after
		}
	}
	return false
}

// glob reports whether a pattern in which * stands for any text matches all of a text.
func glob(pattern, text string) bool {
	first, rest, ok := strings.Cut(pattern, "*")
	if !ok {
		return pattern == text
	}
	if !strings.HasPrefix(text, first) {
		return false
	}
	for text = text[len(first):]; ; text = text[1:] {
		if glob(rest, text) {
			return true
		}
		if text == "" {
			return false
		}
	}
}

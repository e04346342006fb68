package embedded

import (
	"strconv"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
)

// keyFormat is in every key: raising it makes all earlier entries misses.
const keyFormat = "1"

// parts are the named parts of a key, in order. Entries keep them, so that an explanation of a miss is a comparison
// of two lists.
type parts []cache.Input

// newParts starts the key of a step of the given kind.
func newParts(kind string) parts {
	return parts{{Name: "format", Digest: keyFormat}, {Name: "kind", Digest: kind}}
}

// add appends a part whose value is short and no secret; an empty value is left out.
func (p *parts) add(name, value string) {
	if value != "" {
		*p = append(*p, cache.Input{Name: name, Digest: value})
	}
}

// hash appends the digest of a value of any size. shown is the value for people, "" where it has no text or is secret.
func (p *parts) hash(name string, value []byte, shown string) {
	*p = append(*p, cache.Input{Name: name, Digest: digest.FromBytes(value).String(), Value: shortText(shown)})
}

// maxShown bounds a value for people, in bytes.
const maxShown = 200

// shortText is one line of a text, cut where it is long.
func shortText(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}

// bare is the parts without what is for people: what entries keep.
func (p parts) bare() parts {
	out := make(parts, len(p))
	for i, in := range p {
		out[i] = cache.Input{Name: in.Name, Digest: in.Digest}
	}
	return out
}

// flag appends a part only when it is set.
func (p *parts) flag(name string, set bool) {
	if set {
		p.add(name, strconv.FormatBool(set))
	}
}

// with returns the parts followed by more; p itself stays as it is.
func (p parts) with(more parts) parts {
	return append(p[:len(p):len(p)], more...)
}

// key is the canonical hash of the parts.
func (p parts) key() digest.Digest { return cache.KeyOf(p) }

package embedded

import (
	"strconv"

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

// hash appends the digest of a value of any size.
func (p *parts) hash(name string, value []byte) {
	p.add(name, digest.FromBytes(value).String())
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

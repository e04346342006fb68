package keys

import (
	"slices"
	"strconv"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache/key"
)

// format is in every key. Raise it when the meaning of existing parts changes: all earlier entries are misses then.
const format = "2"

// The names of key parts that an explanation tells apart. They are a format: entries hold them.
const (
	PartCommand  = "command"
	PartAction   = "action " // followed by its number and what it does
	PartVariable = "env "    // followed by its name
	PartContent  = "content of "
	PartTest     = "test"
)

// Parts are the named parts of a key, in order. Entries keep them, so that an explanation of a miss is a comparison
// of two lists.
type Parts []key.Part

// NewParts returns the first parts of the key of a step of the given kind.
func NewParts(kind string) Parts {
	return Parts{{Name: "format", Digest: format}, {Name: "kind", Digest: kind}}
}

// Add appends a part whose value is short and not secret; an empty value is left out. The part's Digest is the value
// itself.
func (p *Parts) Add(name, value string) {
	if value != "" {
		*p = append(*p, key.Part{Name: name, Digest: value})
	}
}

// Hash appends the digest of a value of any size. shown is the value for people, "" where it is not text or is
// secret.
func (p *Parts) Hash(name string, value []byte, shown string) {
	*p = append(*p, key.Part{Name: name, Digest: digest.FromBytes(value).String(), Value: ShortText(shown)})
}

// Flag appends a part only when it is set.
func (p *Parts) Flag(name string, set bool) {
	if set {
		p.Add(name, strconv.FormatBool(set))
	}
}

// With returns the parts followed by more; p itself does not change.
func (p Parts) With(more Parts) Parts {
	return append(p[:len(p):len(p)], more...)
}

// Bare returns the parts without the values for people: what entries keep.
func (p Parts) Bare() Parts {
	out := make(Parts, len(p))
	for i, in := range p {
		out[i] = key.Part{Name: in.Name, Digest: in.Digest}
	}
	return out
}

// Key returns the canonical hash of the parts.
func (p Parts) Key() digest.Digest { return key.Of(p) }

// maxShown bounds a value for people, in bytes.
const maxShown = 200

// ShortText returns a text on one line, cut where it is long.
func ShortText(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > maxShown {
		s = strings.ToValidUTF8(s[:maxShown], "") + "…"
	}
	return s
}

// secretNames are components of the names of variables whose values are not shown.
var secretNames = []string{
	"apikey", "auth", "credential", "credentials", "key", "passwd", "password", "pword", "secret", "token",
}

// shownValue returns a variable's value for people, "" where its name says that it is secret.
func shownValue(name, value string) string {
	components := strings.FieldsFunc(strings.ToLower(name), func(r rune) bool { return r == '_' || r == '-' })
	if slices.ContainsFunc(components, func(c string) bool { return slices.Contains(secretNames, c) }) {
		return ""
	}
	return value
}

// Package key has the named parts of a cache key and their hash.
//
// It is a leaf: it imports nothing of this module and builds on every system, so that keys can be computed without a
// cache.
package key

import (
	"crypto/sha256"
	"strconv"

	digest "github.com/opencontainers/go-digest"
)

// Part is a named part of a key. Digest is any text that stands for the part's content. Value is that content for
// people, where Digest does not say it; it is in no key.
//
// Entries of the cache hold parts as JSON, so the names of the fields are a format.
type Part struct {
	Name, Digest string
	Value        string `json:",omitempty"`
}

// Of hashes parts in the given order. Names and digests are length-prefixed, so that no two lists give the same
// bytes.
func Of(parts []Part) digest.Digest {
	h := sha256.New()
	for _, p := range parts {
		for _, text := range []string{p.Name, p.Digest} {
			h.Write(strconv.AppendInt(nil, int64(len(text)), 10))
			h.Write([]byte{':'})
			h.Write([]byte(text))
		}
	}
	return digest.NewDigest(digest.SHA256, h)
}

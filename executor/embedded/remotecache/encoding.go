package remotecache

import (
	"strings"

	"github.com/bakebuild/bake/executor/embedded/layers"
)

// Media types of an index are never used: a registry or a runtime would believe them, and nothing verifies them. The
// media type of a layer follows from its encoding, which is compared with the bytes when they are read.

// algorithmOf returns the compression that an encoding names, such as "zstd-3, times kept"; ok is false if it is none
// of a layer.
func algorithmOf(encoding string) (a layers.Algorithm, ok bool) {
	name, _, _ := strings.Cut(encoding, ", ")
	name, _, _ = strings.Cut(name, "-")
	switch a = layers.Algorithm(name); a {
	case layers.Gzip, layers.Zstd, layers.Uncompressed:
		return a, true
	}
	return "", false
}

// Algorithm returns the compression that the layer's blob must have. A cache mount has no encoding and is zstd.
func (l *Layer) Algorithm() layers.Algorithm {
	if a, ok := algorithmOf(l.Encoding); ok {
		return a
	}
	return layers.Zstd
}

// setTypes replaces the media types that an index says by those that an export writes.
func (l *Layer) setTypes() {
	if l.Blob != nil {
		l.Blob.MediaType = layers.Compression{Algorithm: l.Algorithm()}.MediaType()
	}
	if l.Paths != nil {
		l.Paths.MediaType = MediaPaths
	}
	for i := range l.Packed {
		a, _ := algorithmOf(l.Packed[i].Encoding) // only encodings of layers are requested
		l.Packed[i].MediaType = layers.Compression{Algorithm: a}.MediaType()
	}
}

// setTypes replaces what an index says about a cache mount beyond its blobs by what an export writes.
func (m *Mount) setTypes() {
	m.Encoding, m.Packed = "", nil
	m.Layer.setTypes()
	m.Blob.MediaType = MediaMount
}

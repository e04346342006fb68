package planner

import (
	"cmp"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// Unpinned is a reference in a Dockerfile that PinDockerfile could not pin.
type Unpinned struct {
	Line int
	Word string // as written
}

// PinDockerfile appends a digest to each image reference in FROM, COPY --from and RUN --mount=from, and changes nothing
// else. pins returns the digest of a normalized reference, or "". A reference with a digest is not changed. A reference
// with variables is not changed either, and is returned in left.
func PinDockerfile(data []byte, pins func(ref string) digest.Digest) (pinned []byte, left []Unpinned) {
	type edit struct {
		at   int
		text string
	}
	var edits []edit
	for _, m := range scanDockerfile(data).images {
		ref := m.ref()
		switch d := pins(ref); {
		case strings.Contains(m.word, "$"), d != "" && m.offset < 0:
			left = append(left, Unpinned{m.start, m.word})
		case d != "":
			edits = append(edits, edit{m.offset + len(m.word), "@" + d.String()})
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.at, b.at) })
	edits = slices.Compact(edits)
	last := 0
	for _, e := range edits {
		pinned = append(append(pinned, data[last:e.at]...), e.text...)
		last = e.at
	}
	return append(pinned, data[last:]...), left
}

package planner

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// imageWord is a word in FROM, COPY --from or RUN --mount=from that names an image, a stage or a context.
type imageWord struct {
	word       string // as written, with variables
	start, end int    // lines of the instruction, from 1
	offset     int    // of the word in the file, in bytes; -1 if it was not found verbatim
}

// ref returns the normalized reference of the word, or "" if it is not a reference without further expansion.
func (m imageWord) ref() string {
	if _, err := strconv.Atoi(m.word); err == nil || m.word == "scratch" || strings.ContainsAny(m.word, "$\\\"'`") {
		return "" // a stage by its number, scratch, or a word that must be expanded
	}
	named, err := reference.ParseNormalizedNamed(m.word)
	if err != nil {
		return ""
	}
	return reference.TagNameOnly(named).String()
}

// scan holds the images and stages that a Dockerfile names.
type scan struct {
	images []imageWord     // without names of earlier stages
	stages map[string]bool // names of stages, in lower case
}

// scanDockerfile returns the images and stages that a Dockerfile names. The result is empty if the Dockerfile cannot be
// parsed; the frontend reports the error.
func scanDockerfile(data []byte) scan {
	s := scan{stages: map[string]bool{}}
	r, err := rewriteDockerfile(data)
	if err != nil {
		return s
	}
	parsed, err := parser.Parse(bytes.NewReader(r.data))
	if err != nil {
		return s
	}
	for _, n := range parsed.AST.Children {
		n.StartLine, n.EndLine = r.lines.original(n.StartLine), r.lines.original(n.EndLine)
		switch strings.ToLower(n.Value) {
		case "from":
			if n.Next != nil {
				s.add(data, n, n.Next.Value, "")
				if as := n.Next.Next; as != nil && as.Next != nil && strings.EqualFold(as.Value, "as") {
					s.stages[strings.ToLower(as.Next.Value)] = true
				}
			}
		case "copy", "run":
			for _, flag := range n.Flags {
				if from, ok := strings.CutPrefix(flag, "--from="); ok {
					s.add(data, n, from, "--from=")
				}
				if mount, ok := strings.CutPrefix(flag, "--mount="); ok {
					for field := range strings.SplitSeq(mount, ",") {
						if from, ok := strings.CutPrefix(field, "from="); ok {
							s.add(data, n, from, "from=")
						}
					}
				}
			}
		}
	}
	return s
}

func (s *scan) add(data []byte, n *parser.Node, word, prefix string) {
	if word != "" && !s.stages[strings.ToLower(word)] {
		at := findWord(data, n.StartLine, n.EndLine, prefix, word)
		s.images = append(s.images, imageWord{word, n.StartLine, n.EndLine, at})
	}
}

// findWord returns the offset of a word in the lines start to end of a file, or -1. The word follows prefix, which may
// be empty. The first word of these lines, which is the instruction, is skipped.
func findWord(data []byte, start, end int, prefix, word string) int {
	offset, number, first := 0, 0, true
	for line := range bytes.Lines(data) {
		number++
		from := offset
		offset += len(line)
		if number < start || number > end || bytes.HasPrefix(bytes.TrimSpace(line), []byte("#")) {
			continue
		}
		skip := 0
		if first { // the instruction itself
			skip = len(line) - len(bytes.TrimLeft(line, " \t"))
			skip += max(0, bytes.IndexAny(line[skip:], " \t"))
			first = false
		}
		if at := wordIn(line[skip:], prefix, word); at >= 0 {
			return from + skip + at
		}
	}
	return -1
}

// wordIn returns the index of a word in a line, or -1. The prefix and word must be delimited by white space, commas,
// equal signs or the ends of the line.
func wordIn(line []byte, prefix, word string) int {
	edge := func(i int) bool { return i < 0 || i >= len(line) || strings.IndexByte(" \t\r\n,=", line[i]) >= 0 }
	for from := 0; ; {
		i := bytes.Index(line[from:], []byte(prefix+word))
		if i < 0 {
			return -1
		}
		i += from
		if edge(i-1) && edge(i+len(prefix)+len(word)) {
			return i + len(prefix)
		}
		from = i + 1
	}
}

// namedPlaces returns the lines of a target's Dockerfile that name an image in a mount, or by a named context or base
// block. The frontend gives no locations for these.
func (in *inputs) namedPlaces(ref string) []Location {
	var at []Location
	for _, m := range in.scan().images {
		word := familiar(m.word)
		named := m.ref() == ref
		for _, alias := range in.aliases[ref] {
			named = named || word == alias || strings.EqualFold(m.word, alias)
		}
		if named {
			at = append(at, in.file.lines.location(Location{File: in.file.display, Start: m.start, End: m.end}))
		}
	}
	return at
}

// scan returns the images and stages that the target's Dockerfile names. The Dockerfile is parsed once.
func (in *inputs) scan() scan {
	if in.scanned == nil {
		s := scanDockerfile(in.file.data)
		in.scanned = &s
	}
	return *in.scanned
}

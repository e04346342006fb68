package planner

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// mention is a word of a Dockerfile that names an image, a stage or a context: of FROM, COPY --from or RUN --mount=from.
type mention struct {
	word       string // as written, variables and all
	start, end int    // lines of the instruction, from 1
	offset     int    // of the word in the file, in bytes; -1 where it could not be found as it is
}

// ref is the normalised reference of a word, "" where it is none as it stands.
func (m mention) ref() string {
	if _, err := strconv.Atoi(m.word); err == nil || m.word == "scratch" || strings.ContainsAny(m.word, "$\\\"'`") {
		return "" // a stage by its number, no image at all, or what must be expanded first
	}
	named, err := reference.ParseNormalizedNamed(m.word)
	if err != nil {
		return ""
	}
	return reference.TagNameOnly(named).String()
}

// scan is what a Dockerfile names.
type scan struct {
	mentions []mention       // those of earlier stages left out
	stages   map[string]bool // names that FROM lines give, in lower case
}

// scanDockerfile finds what a Dockerfile names. One that cannot be read names nothing: the front end says why.
func scanDockerfile(data []byte) scan {
	s := scan{stages: map[string]bool{}}
	parsed, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return s
	}
	for _, n := range parsed.AST.Children {
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
		s.mentions = append(s.mentions, mention{word, n.StartLine, n.EndLine, findWord(data, n.StartLine, n.EndLine, prefix, word)})
	}
}

// findWord is where a word stands in some lines of a file, after the first word of these: alone, or after the prefix.
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

// wordIn is where a word stands in a line, with white space, commas or the line's ends around prefix and word.
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

// namedPlaces are the lines of a target's Dockerfile that name an image by a context or a base block, or in a mount: of these
// the front end does not tell.
func (in *inputs) namedPlaces(ref string) []Location {
	var at []Location
	for _, m := range in.scan().mentions {
		word := familiar(m.word)
		named := m.ref() == ref
		for _, alias := range in.aliases[ref] {
			named = named || word == alias || strings.EqualFold(m.word, alias)
		}
		if named {
			at = append(at, Location{File: in.file.display, Start: m.start, End: m.end})
		}
	}
	return at
}

// scan is what the target's Dockerfile names, looked at once.
func (in *inputs) scan() scan {
	if in.scanned == nil {
		s := scanDockerfile(in.file.data)
		in.scanned = &s
	}
	return *in.scanned
}

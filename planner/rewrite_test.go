package planner

import (
	"bytes"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// TestRewrite: what the parser makes of a rewritten Dockerfile, and at which lines of the file.
func TestRewrite(t *testing.T) {
	long, xs := strings.TrimSpace(strings.Repeat("word ", 14000)), strings.Repeat("x", splitAt-15)
	for name, c := range map[string]struct{ file, want string }{
		"long line": {"FROM a\nRUN echo " + long + "\nRUN b\n", "1 FROM a|2 RUN echo " + long + "|3 RUN b"},
		"long line that continues": {"FROM a\nRUN echo " + long + " \\\n x\nRUN b\n",
			"1 FROM a|2 RUN echo " + long + "  x|4 RUN b"},
		"longer": {"FROM a\nRUN echo " + strings.Repeat(long, 5) + "\nRUN b", "1 FROM a|2 RUN echo " +
			strings.Repeat(long, 5) + "|3 RUN b"},
		"long comment":     {"FROM a\n# " + long + "\nRUN b\n", "1 FROM a|3 RUN b"},
		"escape directive": {"# escape=`\nFROM a\nRUN echo " + long + "\n", "2 FROM a|3 RUN echo " + long},
		"blanks at the split": {"FROM a\nRUN echo " + xs + " #  \t#" + long + "\nRUN b\n",
			"1 FROM a|2 RUN echo " + xs + " #  \t#" + long + "|3 RUN b"},
		"CRLF": {"FROM a\r\nRUN <<E\r\none\r\ntwo\r\nE\r\nRUN b\r\n", "1 FROM a|2 RUN <<E[one\ntwo\n]|6 RUN b"},
		"LF":   {"FROM a\nRUN <<E\none\r\nE\nRUN b\n", "1 FROM a|2 RUN <<E[one\r\n]|5 RUN b"},
		"two documents": {"FROM a\r\nCOPY <<A <<B /\r\n1\r\nA\r\n2\r\nB\r\nRUN b\r\n",
			"1 FROM a|2 COPY <<A <<B /[1\n][2\n]|7 RUN b"},
		"blank":            {"FROM a\nRUN cat << E >/x\none\nE\nRUN b\n", "1 FROM a|2 RUN cat << E >/x[one\n]|5 RUN b"},
		"chomp and blank":  {"FROM a\nRUN <<- E\n\tone\n\tE\nRUN b\n", "1 FROM a|2 RUN <<-E[one\n]|5 RUN b"},
		"quoted":           {"FROM a\nCOPY <<- 'E' /x\n$x\nE\n", "1 FROM a|2 COPY <<-'E' /x[$x\n]"},
		"shift in JSON":    {"FROM a\nRUN [\"x\", \"1 <<- N\"]\nN\n", "1 FROM a|2 RUN [\"x\", \"1 <<- N\"]|3 N"},
		"not in a label":   {"FROM a\nLABEL x=\"1 <<- N\"\nN\n", "1 FROM a|2 LABEL x=\"1 <<- N\"|3 N"},
		"onbuild":          {"FROM a\nONBUILD RUN <<- E\none\nE\n", "1 FROM a|2 ONBUILD RUN <<-E[one\n]"},
		"continued":        {"FROM a\nRUN \\\n cat <<- E\none\nE\nRUN b\n", "1 FROM a|2 RUN  cat <<-E[one\n]|6 RUN b"},
		"document is data": {"FROM a\nRUN <<E\ncat << F\nF\nE\nRUN b\n", "1 FROM a|2 RUN <<E[cat << F\nF\n]|6 RUN b"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := rewriteDockerfile([]byte(c.file))
			if err != nil {
				t.Fatal(err)
			}
			lines := r.lines
			parsed, err := parser.Parse(bytes.NewReader(r.data))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range parsed.AST.Children {
				text := string(rune('0'+lines.original(n.StartLine))) + " " + strings.TrimSpace(n.Original)
				for _, doc := range n.Heredocs {
					content := doc.Content
					if doc.Chomp {
						content = parser.ChompHeredocContent(content)
					}
					text += "[" + content + "]"
				}
				got = append(got, text)
			}
			if got := strings.Join(got, "|"); got != c.want {
				t.Errorf("got  %.300q\nwant %.300q", got, c.want)
			}
		})
	}
}

// TestRewriteNothing: other Dockerfiles keep their bytes.
func TestRewriteNothing(t *testing.T) {
	for _, file := range []string{
		"FROM a\nRUN b\n", "FROM a\r\nRUN b\r\n", "FROM a\nRUN <<E\nx\nE\n", "FROM a\nRUN echo $((1<<2))", "",
	} {
		if got, err := rewriteDockerfile([]byte(file)); string(got.data) != file || got.lines != nil || err != nil {
			t.Errorf("%q became %q (%v)", file, got.data, err)
		}
	}
}

// TestManyHeredocStarts shows that the cost is linear: with a search of the rest of the file for each of these starts
// this test would run for hours.
func TestManyHeredocStarts(t *testing.T) {
	const starts, lines = 8_000, 200_000
	file := "RUN echo " + strings.Repeat("<<- A ", starts) + "\n" + strings.Repeat("# a comment\n", lines)
	if got, err := rewriteDockerfile([]byte(file)); err != nil || strings.Contains(string(got.data), "<<-A") {
		t.Error("a start without an end was joined")
	}
	file += "A\n"
	if got, err := rewriteDockerfile([]byte(file)); err != nil || strings.Count(string(got.data), "<<-A") != starts {
		t.Error("a start with an end was not joined")
	}
}

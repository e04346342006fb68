package planner

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// TestJoints: the parser reads long lines of here-documents, and without the joints their content is that of the file.
// What the frontend makes of the parts after expansion is what it makes of the whole.
func TestJoints(t *testing.T) {
	x, text := strings.Repeat("x", 90000), strings.Repeat("word $V ", 20000)
	envs := shell.EnvsFromSlice([]string{"V=value", "Vx=no", "W=w"})
	for name, content := range map[string]string{
		"one line":          x + "\n",
		"short and long":    "short\n" + x + "\nshort\n" + x + x + "\n",
		"variables":         text + "\n",
		"braces":            strings.Repeat("${V}${N:-none}${W/w/$V}", 9000) + "\n",
		"escapes":           strings.Repeat(`\$V\\$V`, 20000) + "\n",
		"name at the split": strings.Repeat("y", splitAt-1) + "$V-" + x + "\n",
		"brace at the end":  strings.Repeat("y", splitAt-3) + "${V:-" + strings.Repeat("z", 5000) + "}" + x + "\n",
		"open brace":        "${" + x + "\n",
		"quotes":            "'" + text + "' \"" + text + "\"\n",
		"no name":           strings.Repeat("$", 90000) + "\n",
		"multibyte":         strings.Repeat("é", 50000) + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, instruction := range []string{
				"COPY <<E /x", "COPY <<'E' /x", "RUN <<E", "ONBUILD RUN <<E", "ADD <<E /x",
			} {
				data := []byte("FROM a\n" + instruction + "\n" + content + "E\nRUN b\n")
				r, err := rewriteDockerfile(data)
				if err != nil || r.joint == "" {
					t.Fatalf("%s: joint %q, %v", instruction, r.joint, err)
				}
				again, err := rewriteDockerfile(data)
				if err != nil || !bytes.Equal(again.data, r.data) {
					t.Errorf("%s: rewritten differently the second time (%v)", instruction, err)
				}
				parsed, err := parser.Parse(bytes.NewReader(r.data))
				if err != nil {
					t.Fatal(err)
				}
				last := parsed.AST.Children[2]
				if at := r.lines.original(last.StartLine); at != 4+strings.Count(content, "\n") {
					t.Errorf("%s: the last instruction is at line %d", instruction, at)
				}
				docs := parsed.AST.Children[1].Heredocs
				if len(docs) != 1 {
					t.Fatalf("%s: %d documents", instruction, len(docs))
				}
				if got := strings.ReplaceAll(docs[0].Content, r.joint, ""); got != content {
					t.Errorf("%s: other content (%d bytes, want %d)", instruction, len(got), len(content))
				}
				if !docs[0].Expand || strings.Contains(instruction, "RUN") {
					continue
				}
				want, wantErr := expanded(content, envs)
				got, gotErr := expanded(docs[0].Content, envs)
				if strings.ReplaceAll(got, r.joint, "") != want || (gotErr == nil) != (wantErr == nil) {
					t.Errorf("%s: the expansion differs (%v, want %v)", instruction, gotErr, wantErr)
				}
			}
		})
	}
}

// expanded expands a here-document as the frontend does.
func expanded(content string, envs shell.EnvGetter) (string, error) {
	lex := shell.NewLex('\\')
	lex.RawQuotes = true
	r, err := lex.ProcessWordWithMatches(content, envs)
	return r.Result, err
}

// TestLongLineErrors: a line that cannot be split is an error with its place in the file.
func TestLongLineErrors(t *testing.T) {
	x := strings.Repeat("x", 70000)
	for name, c := range map[string]struct {
		file string
		line int
	}{
		"expression":      {"FROM a\n\nCOPY <<E /x\nok\n${A:-" + x + "}\nE\n", 5},
		"name":            {"FROM a\nCOPY <<E /x\n$" + x + "\nE\n", 3},
		"tabs":            {"FROM a\nRUN <<-E\n" + strings.Repeat("\t", 70000) + "x\nE\n", 3},
		"blanks":          {"FROM a\nRUN a \\\n" + strings.Repeat(" ", 70000) + "b\nRUN c\n", 3},
		"after long line": {"FROM a\nRUN " + x + "\nRUN b" + strings.Repeat(" ", 70000) + "\n", 3},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rewriteDockerfile([]byte(c.file))
			long, ok := errors.AsType[*longLineError](err)
			if !ok || long.line != c.line {
				t.Errorf("got %v, want line %d", err, c.line)
			}
		})
	}
}

// TestShortIgnore: long comments and blanks are left out of an ignore file, and a long pattern is an error.
func TestShortIgnore(t *testing.T) {
	long := strings.Repeat("a", 70000)
	got, err := shortIgnore(".dockerignore", []byte("# "+long+"\n b"+strings.Repeat(" ", 70000)+"\r\n!c\n"))
	if err != nil || string(got) != "#\nb\n!c\n" {
		t.Errorf("got %.100q, %v", got, err)
	}
	_, err = shortIgnore("d/.dockerignore", []byte("b\n"+long+"\n"))
	if err == nil || !strings.HasPrefix(err.Error(), "d/.dockerignore:2: a pattern of 70000 bytes") {
		t.Errorf("got %v", err)
	}
}

package config_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/bakebuild/bake/config"
)

// Verdicts of a row in testdata/table. A row that is neither same nor refused follows a line that says why.
const (
	same     = '=' // both accept it and print the same
	refused  = '!' // both refuse it
	onlyHere = '>' // Docker Bake refuses it
	onlyPeer = '<' // only Docker Bake accepts it
	differs  = '~' // both accept it and print something else
)

// tableBase is the project of the rows in set.txt.
const tableBase = `
group "default" { targets = ["a", "b"] }
group "g" { targets = ["a"] }
variable "V" { default = "v" }
variable "N" { default = 1 }
variable "B" { default = true }
variable "L" {
  type    = list(string)
  default = ["l"]
}
variable "M" {
  type    = map(string)
  default = {}
}
G = "global"
target "p" {
  args     = { P = "p" }
  contexts = { one = "dir" }
}
target "a" {
  inherits        = ["p"]
  args            = { A = V, N = N, B = B, L = join(" ", L), M = join(" ", keys(M)), G = G, C = BAKE_CMD_CONTEXT }
  labels          = { l = "1" }
  annotations     = ["a=b"]
  tags            = ["t"]
  platforms       = ["linux/amd64"]
  output          = ["type=image,name=n"]
  cache-from      = ["c"]
  cache-to        = ["type=inline"]
  secret          = ["id=s,src=f"]
  ssh             = ["x=key"]
  attest          = ["type=provenance,mode=min"]
  no-cache-filter = ["f"]
  ulimits         = ["core=0"]
  entitlements    = ["security.insecure"]
  resources       = { memory = "1m" }
  extra-hosts     = { g = "1.1.1.1" }
}
target "b" {}
target "m" {
  name   = "m-${x}"
  matrix = { x = ["1", "2"] }
}
target "other" {}
`

// TestTable runs every row of testdata/table: each attribute, block and --set key with many values. It compares with
// `buildx bake --print` where buildx is on the path. BAKE_UPDATE=1 rewrites the verdicts.
func TestTable(t *testing.T) {
	peer, err := exec.LookPath("buildx")
	if err != nil && (os.Getenv("CI") == "true" || os.Getenv("BAKE_UPDATE") != "") {
		t.Fatal("no buildx (.ci/peers builds it)")
	}
	for _, file := range []string{"values", "files", "set", "compose"} {
		t.Run(file, func(t *testing.T) { runTable(t, peer, filepath.Join("testdata/table", file+".txt")) })
	}
}

func runTable(t *testing.T, peer, file string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	var rows []int
	for i, line := range lines {
		if line != "" && line[0] != '#' {
			rows = append(rows, i)
		}
	}
	kind := strings.TrimSuffix(filepath.Base(file), ".txt")
	t.Run("rows", func(t *testing.T) {
		for _, i := range rows {
			t.Run(fmt.Sprint(i+1), func(t *testing.T) {
				t.Parallel()
				r := tableRow{kind: kind, text: lines[i][2:], want: lines[i][0], peer: peer}
				if got := r.run(t); got != r.want && os.Getenv("BAKE_UPDATE") != "" {
					lines[i] = string(got) + lines[i][1:]
				}
				above := lines[i-1] // the first line is a heading
				explained := strings.HasPrefix(above, "# ") || strings.ContainsRune("<>~", rune(above[0]))
				if strings.ContainsRune("<>~", rune(r.want)) && !explained {
					t.Error("no line above says why it differs")
				}
			})
		}
	})
	if os.Getenv("BAKE_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tableRow is one row of a table.
type tableRow struct {
	kind, text string
	want       byte
	peer       string // path of buildx, or ""
}

// run evaluates the row and returns the verdict.
func (r tableRow) run(t *testing.T) byte {
	t.Helper()
	opts, env := r.project(t)
	opts.Env = env
	var ours []byte
	p, _, ourErr := config.Load(t.Context(), opts)
	if ourErr == nil {
		var err error
		if ours, err = config.Print(p); err != nil {
			t.Fatal(err)
		}
	}
	if accepts := strings.ContainsRune("=>~", rune(r.want)); accepts != (ourErr == nil) {
		t.Errorf("%s\nours: %v", r.text, ourErr)
	}
	if r.peer == "" {
		return r.want
	}
	theirs, theirErr := runPeer(t, r.peer, opts, env)
	got := byte(same)
	difference := ""
	switch {
	case ourErr != nil && theirErr != "":
		got = refused
	case ourErr != nil:
		got = onlyPeer
	case theirErr != "":
		got = onlyHere
	default:
		if difference = cmp.Diff(decoded(t, theirs), decoded(t, ours)); difference != "" {
			got = differs
		}
	}
	if got != r.want {
		t.Errorf("verdict %c, want %c\n%s\nours: %v\ntheirs: %s\n%s", got, r.want, r.text, ourErr, theirErr, difference)
	}
	return got
}

// project writes the files of the row and returns its options and environment.
func (r tableRow) project(t *testing.T) (config.Options, map[string]string) {
	dir := t.TempDir()
	opts, env := config.Options{Dir: dir}, map[string]string{"HOME": t.TempDir()}
	name, text := "docker-bake.hcl", tableBase
	switch r.kind {
	case "values":
		text = "target \"default\" {\n" + r.text + "\n}\n" +
			"target \"other\" {}\ngroup \"some\" { targets = [\"other\"] }\n"
	case "files":
		text = r.text + "\n"
	case "compose":
		name, text, opts.Targets = "compose.yaml", r.text+"\n", []string{"default"}
		if strings.HasPrefix(text, "build:") {
			text = "services:\n  app:\n    " + text
		}
	default:
		readTableArgs(t, &opts, env, r.text)
	}
	text = strings.ReplaceAll(text, ";;", "\n")
	g := generator{}
	for _, f := range []txtar.File{{Name: name, Data: []byte(text)}, {Name: "f"}, {Name: "full/y"},
		{Name: "dir/x"}, {Name: "key", Data: g.key()}, {Name: "envfile", Data: []byte("E=fromfile\n")},
		{Name: "other.yaml", Data: []byte("services: { o: { build: dir } }\n")}} {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return opts, env
}

func readTableArgs(t *testing.T, opts *config.Options, env map[string]string, text string) {
	if name, ok := strings.CutSuffix(text, " ;; target"); ok {
		opts.Targets = []string{name}
		return
	}
	if !strings.HasPrefix(text, "--") {
		text = "--set " + text
	}
	readArgs(t, opts, env, strings.ReplaceAll(text, " ;; ", "\n"))
}

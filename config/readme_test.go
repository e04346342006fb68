package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestReadme checks that the tables in the README match the code. BAKE_UPDATE=1 rewrites them.
func TestReadme(t *testing.T) {
	raw, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	const rule = "|---|---|---|---|\n"
	head, _, ok := strings.Cut(string(raw), rule)
	if !ok {
		t.Fatal("the README has no table of attributes")
	}
	want := head + rule + table()
	if want == string(raw) {
		return
	}
	if os.Getenv("BAKE_UPDATE") == "" {
		t.Fatal("the tables are out of date; run BAKE_UPDATE=1 go test ./config -run TestReadme")
	}
	if err := os.WriteFile("README.md", []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

func table() string {
	kinds := map[kind]string{
		kindString: "string", kindBool: "bool", kindStrings: "list of strings", kindMap: "map of strings",
		kindAttrs: "list of `KEY=VALUE,…` or objects", kindSecrets: "list of `id=…,src=…` or objects",
		kindSSH: "list of `ID[=PATH,…]` or objects", kindTests: "list of objects, or objects by name",
	}
	merges := map[merge]string{
		mergeReplace: "replace", mergeAppend: "append, without duplicates", mergeRepeat: "append",
		mergeKeys: "replace by key", mergeID: "replace by id, type or name",
	}
	var b strings.Builder
	for _, a := range attributes() {
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", a.name, kinds[a.kind], merges[a.merge], a.doc)
	}
	all := blockKinds()
	b.WriteString("\n## All blocks\n| Block | Attribute | Meaning |\n|---|---|---|\n")
	for _, name := range append(all.top(), "validation", "test", "config") {
		title := "`" + name + "`"
		if all[name].labelled {
			title = "`" + name + " \"NAME\"`"
		}
		fmt.Fprintf(&b, "| %s | | %s |\n", title, all[name].doc)
		for _, a := range all[name].attrs {
			if _, listed := newSchema()[a.name]; !listed || name != "target" {
				fmt.Fprintf(&b, "| | `%s` | %s |\n", a.name, a.doc)
			}
		}
	}
	return b.String()
}

package config_test

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
)

// TestLoadLeavesNothingBehind: when an evaluation reaches its limit of time or memory, or the context ends, its
// goroutine ends too, in every place and syntax in which a loop can be.
func TestLoadLeavesNothingBehind(t *testing.T) {
	const list = "range(1000)"
	nest := func(over, body string) string {
		for _, v := range []string{"d", "c", "b", "a"} {
			body = "[for " + v + " in " + over + " : " + body + "]"
		}
		return body
	}
	ones := "[" + strings.Repeat("1,", 999) + "1]"
	loops := nest(list, "a + d")
	none := nest(list, "[for e in "+list+" : e if false]")
	target := func(x string) string { return "target \"default\" { args = { X = " + x + " } }\n" }
	for name, c := range map[string]struct{ file, content string }{
		"attribute": {"bake.hcl", "x = " + loops + "\n" + target("length(x)")},
		"condition": {"bake.hcl", "x = " + none + "\n" + target("length(x)")},
		"variable":  {"bake.hcl", "variable \"x\" { default = length(" + loops + ") }\n" + target("x")},
		"function": {"bake.hcl", "function \"f\" {\n  params = []\n  result = length(" + loops + ")\n}\n" +
			target("f()")},
		"target":   {"docker-bake.hcl", target("join(\"\", flatten(" + loops + "))")},
		"constant": {"bake.hcl", target("\"${length(" + nest(ones, "1") + ")}\"")},
		"template": {"bake.hcl", target("\"%{for a in " + list + "}${length(" + loops + ")}%{endfor}\"")},
		"splat": {"bake.hcl", "variable \"l\" { default = [" + ones + "," + ones + "] }\n" +
			target("length("+nest(list, "l[*][*]")+")")},
		"JSON":      {"bake.json", `{"target":{"default":{"args":{"X":"${length(` + loops + `)}"}}}}`},
		"JSON list": {"bake.json", `{"target":{"default":{"tags":["x:1","x:${length(` + loops + `)}"]}}}`},
		"JSON key":  {"docker-bake.json", `{"target":{"default":{"args":{"X${length(` + loops + `)}":"1"}}}}`},
		"YAML":      {"bake.yaml", "target:\n  default:\n    args:\n      X: '${length(" + loops + ")}'\n"},
		"included":  {"bake.hcl", "include = [for a in " + loops + " : \"x\"]\n"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o644); err != nil {
				t.Fatal(err)
			}
			before := runtime.NumGoroutine()
			_, _, err := config.Load(t.Context(), config.Options{Dir: dir, Limit: 50 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), "not evaluated within 50ms") {
				t.Errorf("%.500v", err)
			}
			if after := goroutines(before); after > before {
				t.Errorf("%d goroutines, %d before", after, before)
			}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(50*time.Millisecond, cancel)
			if _, _, err := config.Load(ctx, config.Options{Dir: dir, Limit: time.Hour}); err == nil {
				t.Error("a load that was cancelled succeeds")
			}
			if after := goroutines(before); after > before {
				t.Errorf("%d goroutines after a cancelled load, %d before", after, before)
			}
		})
	}
}

// goroutines returns the number of goroutines, as soon as it is at most want or has stayed above for ten seconds. A
// goroutine that has done its work may not have been removed yet.
func goroutines(want int) int {
	for range 1000 {
		if runtime.NumGoroutine() <= want {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return runtime.NumGoroutine()
}

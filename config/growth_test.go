package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bakebuild/bake/config"
)

// growing is a kind of project that may have thousands of something.
type growing struct {
	name    string
	file    func(n int) string // the project file
	targets func(n int) []string
	set     func(n int) []string
}

// times repeats a text with # replaced by a number and @ by the number before it.
func times(n int, text string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(strings.NewReplacer("#", fmt.Sprint(i), "@", fmt.Sprint(max(i-1, 0))).Replace(text))
	}
	return b.String()
}

func growingProjects() []growing {
	one := func(name string) func(int) []string { return func(int) []string { return []string{name} } }
	last := func(prefix string) func(int) []string {
		return func(n int) []string { return []string{fmt.Sprint(prefix, n-1)} }
	}
	each := func(text string) func(int) []string {
		return func(n int) []string { return strings.Fields(times(n, text+" ")) }
	}
	list := func(n int) string { return "[" + times(n, "\"t#\",") + "]" }
	all := func(n int) string { return "group \"all\" { targets = " + list(n) + " }\n" }
	flat := func(n int) string {
		return times(n, "target \"t#\" { context = \"c#\" }\n") + all(n)
	}
	wide := func(n int) string { return "target \"t\" {}\n" }
	table := func(n int) string { return "{" + times(n, "t# = \"#\",") + "}" }
	matrix := func(n int, value string) string {
		return "target \"all\" {\n  matrix = { s = " + list(n) + " }\n  name = s\n  args = { S = " + value + " }\n}\n"
	}
	return []growing{
		{"targets", flat, one("all"), nil},
		{"set of a group", flat, one("all"), func(int) []string { return []string{"all.args.A=1", "all.tags+=x"} }},
		{"set of each", flat, one("all"), each("t#.args.A=1")},
		{"set of entries", wide, one("t"), each("t.args.A#=1")},
		{"set of elements", wide, one("t"), each("t.tags+=x:#")},
		{"set of outputs", wide, one("t"), each("t.output+=type=oci,dest=#")},
		{"set of secrets", wide, one("t"), each("t.secret.s#=env=X")},
		{"names", flat, each("t#"), nil},
		{"groups of groups", func(n int) string {
			return "target \"t\" {}\ngroup \"g0\" { targets = [\"t\"] }\ngroup \"h0\" { targets = [\"t\"] }\n" +
				strings.ReplaceAll(times(n, "group \"g#\" { targets = [\"g@\", \"h@\"] }\n"+
					"group \"h#\" { targets = [\"g@\", \"h@\"] }\n"),
					"group \"g0\" { targets = [\"g0\", \"h0\"] }\ngroup \"h0\" { targets = [\"g0\", \"h0\"] }\n", "")
		}, last("g"), func(n int) []string { return []string{fmt.Sprintf("g%d.args.A=1", n-1)} }},
		{"parents of parents", func(n int) string {
			return "target \"t\" { args = { A = \"1\" } }\ntarget \"t0\" { inherits = [\"t\"] }\n" +
				strings.Replace(times(n, "target \"t#\" { inherits = [\"t@\"] }\n"),
					"target \"t0\" { inherits = [\"t0\"] }\n", "", 1) + all(n)
		}, one("all"), nil},
		{"variables of variables", func(n int) string {
			return "V = \"1\"\nV0 = V\n" + strings.Replace(times(n, "V# = V@\n"), "V0 = V0\n", "", 1) +
				fmt.Sprintf("target \"t\" { args = { A = V%d } }\n", n-1)
		}, one("t"), nil},
		{"functions of functions", func(n int) string {
			return "function \"f\" {\n  params = [x]\n  result = x\n}\n" + strings.Replace(times(n/10,
				"function \"f#\" {\n  params = [x]\n  result = f@(x)\n}\n"), "f0(x)", "f(x)", 1) +
				fmt.Sprintf("target \"t\" { args = { A = f%d(\"1\") } }\n", n/10-1)
		}, one("t"), nil},
		{"matrix", func(n int) string { return matrix(n, "s") }, one("all"), nil},
		{"table of a variable", func(n int) string { return "T = " + table(n) + "\n" + matrix(n, "T[s]") }, one("all"),
			nil},
		{"table of a function", func(n int) string {
			return "T = " + table(n) + "\nfunction \"f\" {\n  params = [x]\n  result = T[x]\n}\n" + matrix(n, "f(s)")
		}, one("all"), nil},
		{"links", func(n int) string {
			return strings.Replace(times(n, "target \"t#\" { contexts = { a = \"target:t@\" } }\n"),
				"{ contexts = { a = \"target:t0\" } }", "{}", 1) + all(n)
		}, one("all"), nil},
	}
}

// load evaluates and prints a project of a size, and lists its targets.
func (g growing) load(tb testing.TB, n int) {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "bake.hcl"), []byte(g.file(n)), 0o644); err != nil {
		tb.Fatal(err)
	}
	opts := config.Options{Dir: dir, Targets: g.targets(n), Limit: time.Hour}
	if g.set != nil {
		opts.Set = g.set(n)
	}
	p, _, err := config.Load(tb.Context(), opts)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := config.Print(p); err != nil {
		tb.Fatal(err)
	}
	if _, err := config.ListTargets(tb.Context(), opts); err != nil {
		tb.Fatal(err)
	}
}

// TestGrowth shows that a project four times as large needs about four times the memory to evaluate, over all that is
// allocated; sixteen times would be quadratic.
// That is what depends on the algorithm and not on the machine; BenchmarkGrowth has the time.
func TestGrowth(t *testing.T) {
	const n = 500
	for _, g := range growingProjects() {
		t.Run(g.name, func(t *testing.T) {
			allocated := func(n int) float64 {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				g.load(t, n)
				runtime.ReadMemStats(&after)
				return float64(after.TotalAlloc - before.TotalAlloc)
			}
			allocated(n / 10) // what is allocated only once
			few, many := allocated(n), allocated(4*n)
			if many/few > 8 {
				t.Errorf("%d: %.0f bytes, %d: %.0f bytes, %.1f times as many", n, few, 4*n, many, many/few)
			}
		})
	}
}

// TestManyMistakes shows that a mistake in each of thousands of targets costs no comparison with all others.
func TestManyMistakes(t *testing.T) {
	const n = 5000
	dir := t.TempDir()
	file := times(n, "target \"t#\" { inherits = [\"u#\"] }\n") +
		"group \"all\" { targets = [" + times(n, "\"v#\", \"t#\",") + "] }\n"
	if err := os.WriteFile(filepath.Join(dir, "bake.hcl"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, targets := range [][]string{{"all"}, strings.Fields(times(n, "t# "))} {
		_, _, err := config.Load(t.Context(), config.Options{Dir: dir, Targets: targets})
		if err == nil {
			t.Fatal("no error")
		}
		lines := strings.Split(err.Error(), "\n")
		if last := lines[len(lines)-1]; last != "and 4900 more errors" || len(lines) > 501 {
			t.Errorf("%d lines, the last is %q", len(lines), last)
		}
		if !strings.Contains(lines[0], "did you mean") && !strings.Contains(lines[0], "available") {
			t.Errorf("no suggestion: %s", lines[0])
		}
	}
}

// BenchmarkGrowth reports how much longer twice as large a project takes: about 2 if the time is linear, 4 if it is
// quadratic.
func BenchmarkGrowth(b *testing.B) {
	const n = 5000
	for _, g := range growingProjects() {
		b.Run(g.name, func(b *testing.B) {
			var once, twice time.Duration
			for b.Loop() {
				started := time.Now()
				g.load(b, n)
				middle := time.Now()
				g.load(b, 2*n)
				once, twice = once+middle.Sub(started), twice+time.Since(middle)
			}
			b.ReportMetric(twice.Seconds()/once.Seconds(), "times/double")
		})
	}
}

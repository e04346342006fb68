package config_test

import (
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/crypto/ssh"
)

// TestRandomAsPeer compares random project files with the output of `buildx bake --print`. BAKE_SEED repeats a run with
// the seed that it logged. BAKE_RANDOM_TIME is its duration, 10s by default.
func TestRandomAsPeer(t *testing.T) {
	peer := buildx(t)
	var err error
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("BAKE_SEED"); s != "" {
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	limit := 10 * time.Second
	if s := os.Getenv("BAKE_RANDOM_TIME"); s != "" {
		if limit, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	end := time.Now().Add(limit)
	count := 0
	for ; time.Now().Before(end) && !t.Failed(); seed++ {
		count++
		g := &generator{rand.New(rand.NewPCG(seed, 0))}
		files := g.project()
		if !t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) { comparePeer(t, peer, files) }) {
			t.Logf("BAKE_SEED=%d\n%s", seed, txtar.Format(&txtar.Archive{Files: files}))
		}
	}
	t.Logf("%d project files up to BAKE_SEED=%d", count, seed-1)
}

// generator writes random project files, most of them valid.
type generator struct{ *rand.Rand }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func pick[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// times concatenates the results of up to max calls of make, one per line.
func (g *generator) times(max int, make func(int) string) string {
	var b strings.Builder
	for i := range g.IntN(max + 1) {
		b.WriteString(make(i) + "\n")
	}
	return b.String()
}

// project returns two project files, arguments and environment variables.
func (g *generator) project() []txtar.File {
	targets := 2 + g.IntN(4)
	main := g.variables()
	if g.chance(50) {
		main += "function \"wrap\" {\n  params = [x]\n  variadic_params = rest\n  result = " +
			"\"<${x}:${length(rest)}>\"\n}\n"
	} else {
		main += "function \"wrap\" {\n  params = [x]\n  result = upper(x)\n}\n"
	}
	main += "glob = " + g.text("") + "\n"
	for i := range targets {
		main += g.target(i, targets)
	}
	main += g.matrix(targets)
	main += g.group(targets)
	second := g.times(2, func(int) string { return g.target(g.IntN(targets), targets) })
	if g.chance(30) {
		second += "variable \"v0\" {\n  default = " + g.literal() + "\n}\n"
	}
	return []txtar.File{
		{Name: "docker-bake.hcl", Data: []byte(main)}, {Name: "docker-bake.override.hcl", Data: []byte(second)},
		{Name: "args", Data: []byte(g.args(targets))}, {Name: "key",
			Data: g.key()}, {Name: "f"}, {Name: "w"}, {Name: "n"}, {Name: "dir/x"},
	}
}

// variables returns the variables v0 and v1 (strings), v2 (number), v3 (list) and v4 (map), some with a declared type.
// There are no validations, since the peer also evaluates those of unused variables.
func (g *generator) variables() string {
	all := []struct{ kind, value string }{
		{"string", g.literal()}, {"string", g.literal()}, {"number", strconv.Itoa(g.IntN(200) - 100)},
		{"list(string)", "[" + g.literal() + ", " + g.literal() + "]"}, {"map(string)",
			"{ a = " + g.literal() + ", b = \"2\" }"},
	}
	var b strings.Builder
	for i, v := range all {
		fmt.Fprintf(&b, "variable \"v%d\" {\n", i)
		if g.chance(40) || i >= 3 {
			fmt.Fprintf(&b, "  type = %s\n", v.kind)
		}
		fmt.Fprintf(&b, "  default = %s\n", v.value)
		b.WriteString("}\n")
	}
	return b.String()
}

// literal returns a quoted string.
func (g *generator) literal() string {
	return pick(g, `""`, `"a"`, `"b-c"`, `"x y"`, `"1"`, `"true"`, `"1.5"`, `"ä€"`, `"a,b"`, `"k=v"`, `"%%{x"`,
		`"$${y}"`)
}

// text returns an expression whose value is a string that ends with suffix.
func (g *generator) text(suffix string) string {
	switch g.IntN(12) {
	case 0:
		return fmt.Sprintf(`"${v0}%s"`, suffix)
	case 1:
		return fmt.Sprintf(`upper("${v1}%s")`, suffix)
	case 2:
		return fmt.Sprintf(`"%s${v2 + %d}%s"`, pick(g, "", "n"), g.IntN(9), suffix)
	case 3:
		return fmt.Sprintf(`v2 > 0 ? "pos%s" : "neg%s"`, suffix, suffix)
	case 4:
		return fmt.Sprintf(`"${join("-", v3)}%s"`, suffix)
	case 5:
		return fmt.Sprintf(`"${wrap("w")}%s"`, suffix)
	case 6:
		return fmt.Sprintf(`"${v4.a}%s"`, suffix)
	case 7:
		return fmt.Sprintf(`join("", [for x in v3 : "${lower(x)}%s"])`, suffix)
	case 8:
		return fmt.Sprintf(`"%%{ if v0 == "" }e%%{ else }f%%{ endif }%s"`, suffix)
	case 9:
		return fmt.Sprintf(`format("%%s-%%d%s", "q", v2)`, suffix)
	}
	return fmt.Sprintf(`"t%d%s"`, g.IntN(3), suffix)
}

// list returns a list of up to three results of make.
func (g *generator) list(make func() string) string {
	all := []string{}
	for range g.IntN(4) {
		all = append(all, make())
	}
	return "[" + strings.Join(all, ", ") + "]"
}

// dict returns a map of strings.
func (g *generator) dict() string {
	var b strings.Builder
	for _, key := range []string{"A", "B", `"c.d"`} {
		if g.chance(50) {
			fmt.Fprintf(&b, "%s = %s, ", key, pick(g, g.text(""), g.text(""), "null", "1", "true", "v2"))
		}
	}
	return "{ " + strings.TrimSuffix(b.String(), ", ") + " }"
}

// attribute returns a value for an attribute of a target.
func (g *generator) attribute(name string) string {
	switch name {
	case "args", "labels":
		return g.dict()
	case "contexts":
		return fmt.Sprintf(`{ one = "%s", two = "%s" }`, pick(g, "docker-image://alpine:3", "./dir", "", "target:t0"),
			pick(g, "https://example.com/r.git#main", "../x/./y"))
	case "tags":
		return g.list(func() string { return pick(g, `"r/i:1"`, `"r/i:${lower(v1 == "" ? "e" : "f")}"`, `"x"`, `""`) })
	case "platforms":
		return g.list(func() string { return pick(g, `"linux/amd64"`, `"linux/arm64"`, `"linux/arm/v7"`) })
	case "output":
		return g.list(func() string {
			return pick(g, `"type=docker"`, `"type=local,dest=out"`, `"./plain"`, `{ type = "oci", dest = "x.tar" }`,
				`"type=image,push=true,name=r/n"`, `"type=cacheonly"`)
		})
	case "cache-to":
		return g.list(func() string {
			return pick(g, `"type=local,src=c,dest=d"`, `"r/cache:1"`, `{ type = "registry", ref = "r/c" }`,
				`"type=gha,scope=${v2}"`, `"type=inline"`)
		})
	case "secret":
		return g.list(func() string {
			return pick(g, `"id=s,src=f"`, `{ id = "s", env = "E" }`, `"id=e,env=X"`, `"type=file,id=q,src=./w"`)
		})
	case "ssh":
		return g.list(func() string {
			return pick(g, `"default=key"`, `{ id = "k", paths = ["key", "key"] }`,
				`"k=key"`)
		})
	case "attest":
		return g.list(func() string {
			return pick(g, `"type=sbom"`, `{ type = "provenance", mode = "max" }`, `"type=provenance,disabled=true"`)
		})
	case "annotations":
		return g.list(func() string { return pick(g, `"a=b"`, `"index,manifest:c=d"`, `"a=${v2}"`) })
	case "no-cache-filter", "entitlements":
		return g.list(func() string { return pick(g, `"network.host"`, `"security.insecure"`, `"stage"`) })
	case "ulimits":
		return g.list(func() string { return pick(g, `"nofile=1:2"`, `"core=0"`, `"nofile=5"`) })
	case "extra-hosts":
		return fmt.Sprintf(`{ h = "1.2.3.%d", g = "%s" }`, g.IntN(9), pick(g, "::1", "host-gateway"))
	case "no-cache", "pull":
		return pick(g, "true", "false", `"true"`, "v2 > 0")
	case "shm-size":
		return pick(g, `"128m"`, `"1G"`, `"1024"`)
	case "network":
		return pick(g, `"none"`, `"default"`, `"host"`)
	case "context":
		return pick(g, `"."`, `"dir"`, `"./a/../b"`, `"https://example.com/x.git"`, `"/abs//y"`, `""`, "v1")
	}
	return g.text("")
}

func (g *generator) attributes(indent string) string {
	// cache-from is not compared here: the peer mixes up the lists of several targets that inherit it.
	names := []string{
		"args", "labels", "contexts", "tags", "platforms", "output", "cache-to", "secret", "ssh", "attest",
		"annotations",
		"no-cache-filter", "entitlements", "ulimits", "extra-hosts", "no-cache", "pull", "shm-size", "network",
		"context", "dockerfile",
		"dockerfile-inline", "target", "description",
	}
	var b strings.Builder
	for _, name := range names {
		if g.chance(18) {
			fmt.Fprintf(&b, "%s%s = %s\n", indent, name, g.attribute(name))
		}
	}
	return b.String()
}

// target returns a block of target i, which may inherit from earlier targets.
func (g *generator) target(i, of int) string {
	inherits := ""
	if i > 0 && g.chance(50) {
		inherits = fmt.Sprintf("  inherits = %s\n",
			g.list(func() string { return fmt.Sprintf("%q", "t"+strconv.Itoa(g.IntN(i))) }))
	}
	return fmt.Sprintf("target \"t%d\" {\n%s%s}\n", i, inherits, g.attributes("  "))
}

// matrix returns a target with a matrix, or "".
func (g *generator) matrix(targets int) string {
	if g.chance(40) {
		return ""
	}
	axes, name := `{ os = ["a", "b"], n = [1, 2, v2] }`, `"m-${os}-${replace(n, "-", "_")}"`
	if g.chance(40) {
		axes, name = `{ item = [{ tgt = "lint", v = "1" }, { tgt = "test", v = null }] }`, "item.tgt"
	}
	return fmt.Sprintf("target \"m\" {\n  matrix = %s\n  name = %s\n  inherits = [\"t%d\"]\n%s}\n", axes, name,
		g.IntN(targets), g.attributes("  "))
}

func (g *generator) group(targets int) string {
	first := strconv.Itoa(g.IntN(targets))
	member := func() string { return fmt.Sprintf("%q", "t"+strconv.Itoa(g.IntN(targets))) }
	return fmt.Sprintf("group \"some\" {\n  targets = concat([\"t%s\"], %s)\n}\ngroup \"default\" {\n  targets = "+
		"[\"t0\", %s, \"some\"]\n}\n", first, g.list(member), member())
}

// args returns the arguments of a command line for readArgs, one per line.
func (g *generator) args(targets int) string {
	var lines []string
	if g.chance(40) {
		lines = append(lines, "--set "+pick(g, "*", "t*", "t0")+"."+pick(g,
			"args.A=set", "labels.z=1", "platform=linux/s390x", "tags=one", "tags+=more", "output=type=tar,dest=-",
			"no-cache=true", "pull=false",
			"context=elsewhere", "target=final", "secret=id=n,src=n", "cache-to+=type=inline", "contexts.three=dir",
			"args.A=", "dockerfile=D"))
	}
	if g.chance(40) {
		lines = append(lines, "env:"+pick(g, "v0=fromenv", "v2=7", "v3=x,y", "v4=a:1", "v1=", "v3_JSON=[\"j\"]"))
	}
	if g.chance(20) {
		lines = append(lines, "--var "+pick(g, "v0=given", "v2=12", "v1=v"))
	}
	for range g.IntN(3) {
		lines = append(lines, pick(g, "t0", "t1", "some", "default", "t*"))
	}
	return strings.Join(lines, "\n")
}

// key returns a private key, since the peer reads the files of keys.
func (g *generator) key() []byte {
	var seed [ed25519.SeedSize]byte
	block, err := ssh.MarshalPrivateKey(ed25519.NewKeyFromSeed(seed[:]), "")
	if err != nil {
		return nil
	}
	return pem.EncodeToMemory(block)
}

package executortest

import (
	"fmt"
	"math/rand/v2"
	"strings"
)

// Random returns a generated case without a Want: a Dockerfile of one to three stages. Equal seeds give equal cases.
// The commands are deterministic, and most of them succeed.
func Random(seed uint64) Case {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0))}
	c := Case{Name: fmt.Sprintf("random-%d", seed), Files: map[string][]byte{}, Setup: g.context()}
	for _, name := range []string{"f", "g", "d/f", "d/g", "d/e/h", "d/.hidden", "x y"} {
		c.Files[name] = []byte(name + "\n")
	}
	// Equal files in different places: whatever copies them may share a layer, if they land in one place and have one
	// mode. All cases of a build share.
	for _, name := range []string{"e1/x", "e1/s/y", "e2/x", "e2/s/y", "e3/z", "e3/s/y"} {
		c.Files[name] = []byte("equal\n")
	}
	if g.chance(20) {
		c.Files[".dockerignore"] = []byte(g.pick("d/e\n", "*\n!d\n!f\n", "**/g\n", "d/*\n!d/e\n", "f\n") +
			"Dockerfile\n")
	} else {
		c.Files[".dockerignore"] = []byte("Dockerfile\n")
	}
	c.Files["Dockerfile"] = []byte(g.dockerfile())
	return c
}

type generator struct {
	*rand.Rand
	stages int
	// shell reports whether the stage can run commands.
	shell bool
	// acls reports whether there is a stage of that name, with the files of acl.tar.
	acls bool
}

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) pick(from ...string) string { return from[g.IntN(len(from))] }

// context returns Setup commands that change the context.
func (g *generator) context() string {
	var b strings.Builder
	for range g.IntN(5) {
		b.WriteString(g.pick("chmod 4755 f", "chmod 600 d/f", "chmod 700 d/e", "chmod 1777 d", "ln f l", "ln ../f d/up",
			"ln nothing d/dangling",
			"chmod 700 e2/s", "chmod 640 e2/x", "ln e d/toe", "link f d/hard", "link d/g d/e/hard",
			"mkdir empty", "mkdir d/none", "mkfifo d/pipe") + "\n")
	}
	// Each command may create its name only once: keep the first.
	seen, out := map[string]bool{}, ""
	for line := range strings.Lines(b.String()) {
		if !seen[line] {
			seen[line] = true
			out += line
		}
	}
	return out + "tar t.tar d:td f:td/f:one:640:3:4 l:tl:td f:tg:two::0:7 h:td/hard:tg f:.wh.gone:\n" +
		"tar acl.tar d:ta::750:0:0:system.posix_acl_default=" + defaultACL + " f:ta/f:three:640:0:0:" +
		"system.posix_acl_access=" + accessACL + " d:ta/sub::2770:0:100\n"
}

// POSIX ACLs as the kernel encodes them, in hexadecimal. The default one gives new files 0664, whatever the umask is,
// and user 1000 rights; the other lets user 1000 read a file.
const (
	defaultACL = "0200000001000700ffffffff02000700e803000004000500ffffffff10000700ffffffff20000500ffffffff"
	accessACL  = "0200000001000600ffffffff02000400e803000004000000ffffffff10000400ffffffff20000000ffffffff"
)

func (g *generator) dockerfile() string {
	var b strings.Builder
	if g.acls = g.chance(25); g.acls {
		b.WriteString("FROM REGISTRY/busybox:1 AS acls\nADD acl.tar /\n")
	}
	count := 1 + g.IntN(3)
	for g.stages = 0; g.stages < count; g.stages++ {
		base := g.pick("REGISTRY/busybox:1", "REGISTRY/busybox:1", "REGISTRY/odd:1", "REGISTRY/conf:1", "scratch")
		if g.stages > 0 && g.chance(30) {
			base = fmt.Sprintf("s%d", g.IntN(g.stages))
		}
		g.shell = base != "scratch" && !strings.HasPrefix(base, "s")
		fmt.Fprintf(&b, "FROM %s AS s%d\n", base, g.stages)
		if g.shell {
			b.WriteString("USER root\n")
			b.WriteString(g.attributes())
		}
		for range 1 + g.IntN(7) {
			b.WriteString(g.instruction() + "\n")
		}
	}
	return b.String()
}

// attributes returns instructions about what files get from the directory that they are created in, and what copies
// keep, or "". Chance alone rarely makes them meet.
func (g *generator) attributes() string {
	p := g.pick("/p", "/real", "/fresh")
	switch {
	case g.chance(25):
		return "RUN mkdir -p " + p + "; chown 0:100 " + p + "; chmod 2755 " + p + "; true\n" +
			g.pick("COPY ", "COPY --chown=5:6 ", "COPY --chmod=750 ", "ADD ") + g.pick("f ", "d ") + p + "/a/b/\n" +
			g.pick("", "WORKDIR "+p+"/w\n")
	case g.acls:
		return "COPY --from=acls " + g.pick("", "--chown=5:6 ", "--link ") +
			g.pick("/ta ", "/ta/f ", "/ta ") +
			p + "/ta/\nRUN cd " + p + "/ta; for d in . ta; do mkdir $d/new; touch $d/file; done; chmod 755 . ta; " +
			"/bin/busybox su -s /bin/sh app -c 'cat f ta/f' >/read; true\n"
	}
	return ""
}

func (g *generator) instruction() string {
	switch n := g.IntN(20); {
	case n < 7 && g.shell:
		return g.run()
	case n < 14:
		return g.copy()
	case n < 15:
		return "WORKDIR " + g.path()
	case n < 16:
		return "ENV " + g.pick("A=1", "B=$A-2", "PATH=/bin:/x")
	case n < 17:
		return "ADD " + g.pick("t.tar ", "acl.tar ") + g.path()
	case n < 18:
		return g.pick("LABEL a=$A", "CMD [\"x\"]", "VOLUME /v", "EXPOSE 80", "STOPSIGNAL 9", "ENTRYPOINT e")
	}
	return "COPY <<EOF " + g.path() + "/h\nheredoc $A\nEOF"
}

// path returns a path in the root. There are few, so that instructions interfere with each other.
func (g *generator) path() string {
	return g.pick("/p", "/p/q", "/p/q/r", "/link", "/link/new", "/real", "/opaque", "/home/app", "rel", "rel/x",
		"/implied/by", "/etc/skel", "/ln")
}

func (g *generator) run() string {
	var all []string
	for range 1 + g.IntN(3) {
		p, q := g.path(), g.path()
		all = append(all, g.pick(
			"mkdir -p "+p, "mkdir -m 711 "+p, "test -d "+p+" || touch "+p,
			// Writing to a FIFO would wait for a reader for ever.
			"test -p "+p+" || echo x >"+p, "test -p "+p+" || echo more >>"+p, "rm -rf "+p,
			"rm -rf "+p+"/*", "mv "+p+" "+q, "ln -s "+p+" "+q,
			"touch /tmp/own; ln /tmp/own "+q, "cp -a "+p+" "+q, "chmod 2750 "+p,
			"mkdir -p "+p+" && chown 0:100 "+p+" && chmod 2775 "+p,
			"mkdir "+p+"/new "+p+"/ta/new; touch "+p+"/file "+p+"/ta/file",
			"chmod 755 "+p+" && /bin/busybox su -s /bin/sh app -c 'cat "+p+"/ta/f "+p+"/f' >"+q+"/read",
			"chown 5:6 "+p, "chown -R app "+p,
			"mkfifo "+p, "mkdir -p "+p+"/in/side", "ln -s ../.. "+p+"/up",
			"rm -rf "+p+" && mkdir "+p, "mv "+p+" "+p+".old && cp -a "+p+".old "+p,
		)+" 2>/dev/null")
	}
	mount := ""
	if g.chance(20) {
		mount = g.pick("--mount=type=tmpfs,target=/mp ", "--mount=source=d,target=/mp/q ",
			"--mount=source=d,target=/mp,rw ", "--mount=source=f,target=/mp/q/f ")
	}
	return "RUN " + mount + strings.Join(all, "; ") + "; true"
}

func (g *generator) copy() string {
	flags := ""
	for _, f := range []string{"--chown=5:6", "--chown=app:dev", "--chmod=750", "--chmod=u+x,go-w", "--link",
		"--parents", "--exclude=g", "--exclude=**/h"} {
		if g.acls && strings.HasPrefix(f, "--chmod") {
			continue // BuildKit sets the mode before the ACL, which changes it again
		}
		if g.chance(8) && (g.shell || f != "--chown=app:dev") && !(f == "--link" && strings.Contains(flags, "app")) {
			flags += f + " "
		}
	}
	source := g.pick("f", "d", "d/", "d/f g", "d/*", ".", "d/e", "nothing*", "d f", "d/e/../f", "l*", "empt*",
		"e1", "e2", "e3", "e1/x", "e2/x", "e3/z", "e1/s", "e2/s")
	if source == "." && strings.Contains(flags, "--parents") {
		source = "d" // BuildKit does not find "." with --parents
	}
	if g.stages > 0 && g.chance(40) {
		flags += fmt.Sprintf("--from=s%d ", g.IntN(g.stages))
		source = g.pick("/p*", "/link*", "/real*", "/etc*", "/p* /real*", "/rel*", "/implied*", "/opaque*")
	}
	if strings.Contains(flags, "--exclude") {
		source = strings.ReplaceAll(source, "*", "") // BuildKit does not exclude what a wildcard matches
	}
	return "COPY " + flags + source + " " + g.path() + g.pick("", "/", "/")
}

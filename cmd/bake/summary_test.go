package main

import "testing"

// TestUpToDate shows that a build is up to date only if its image is the one that had the name before: an instruction
// that only changes the config runs nothing, and makes another image.
func TestUpToDate(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	const base = "FROM scratch\nCOPY file /\n"
	c.write(t, "file", "x")
	build := func(dockerfile string) string {
		t.Helper()
		c.write(t, "Dockerfile", dockerfile)
		_, stderr := c.ok(t, "image", "build", "--progress=none", "-t", "x:1", ".")
		return stderr
	}
	first := build(base)
	wantMatch(t, "first", first, `(?m)^1 step: 1 ran, 0 cached, in \S+$`)
	wantMatch(t, "first", first, `(?m)^built x:1 sha256:`)
	for _, line := range []string{
		`CMD ["a"]`, `ENTRYPOINT ["a"]`, "ENV a=b", "LABEL a=b", "USER 7", "EXPOSE 80", "VOLUME /v",
		"STOPSIGNAL SIGINT", `SHELL ["/a"]`, "HEALTHCHECK NONE", "MAINTAINER a", "ONBUILD RUN a", "ARG a=b\nLABEL c=$a",
	} {
		changed := build(base + line + "\n")
		wantMatch(t, line, changed, `(?m)^1 step: 0 ran, 1 cached, in `)
		wantMatch(t, line, changed, `(?m)^built x:1 sha256:`)
		again := build(base + line + "\n")
		wantMatch(t, line+" again", again, `(?m)^up to date \(1 step cached\)$`)
		wantMatch(t, line+" again", again, `(?m)^unchanged x:1 sha256:`)
	}
}

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestUnmappedIDs shows that a build of a user without subordinate ids that needs another id says so, in one message,
// wherever the id comes from. What needs root only works.
func TestUnmappedIDs(t *testing.T) {
	needSandbox(t)
	registry := serveBases(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }))
	t.Cleanup(server.Close)
	const remedy = "add entries for this user to /etc/subuid and /etc/subgid (subordinate ids)"
	// A base whose files belong to root only.
	const from = "FROM scratch\nCOPY busybox /bin/busybox\nCOPY passwd /etc/passwd\n" +
		`SHELL ["/bin/busybox", "sh", "-ec"]` + "\n"
	cases := map[string]string{
		"RUN chown":        from + "RUN /bin/busybox chown 7 /etc/passwd\n",
		"RUN chgrp":        from + "RUN /bin/busybox chgrp 7 /etc/passwd\n",
		"RUN su":           from + "RUN /bin/busybox su app -c true\n",
		"USER":             from + "USER 1000\nRUN /bin/busybox true\n",
		"USER with group":  from + "USER 0:7\nRUN /bin/busybox true\n",
		"WORKDIR":          from + "USER 1000\nWORKDIR /new\n",
		"COPY --chown":     from + "COPY --chown=7:8 Dockerfile /\n",
		"ADD --chown":      from + "ADD --chown=7:8 URL/x /\n",
		"cache uid":        from + "RUN --mount=type=cache,target=/c,uid=7 /bin/busybox true\n",
		"cache gid":        from + "RUN --mount=type=cache,target=/c,gid=7 /bin/busybox true\n",
		"secret uid":       from + "RUN --mount=type=secret,id=s,uid=7,target=/s /bin/busybox true\n",
		"ssh uid":          from + "RUN --mount=type=ssh,uid=7 /bin/busybox true\n",
		"base":             "FROM REGISTRY/busybox:1\nRUN /bin/busybox true\n",
		"COPY --from base": "FROM scratch\nCOPY --from=REGISTRY/busybox:1 / /\n",
	}
	user := &syscall.Credential{Uid: 64123, Gid: 64123} // in no file
	for name, dockerfile := range cases {
		t.Run(name, func(t *testing.T) {
			c := newCLI(t)
			c.user = user
			fill := strings.NewReplacer("REGISTRY", registry, "URL", server.URL)
			c.write(t, "Dockerfile", fill.Replace(dockerfile))
			c.write(t, "secret", "s")
			c.write(t, "passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/:/bin/busybox\n")
			c.write(t, "busybox", string(fileOrSkip(t, "/bin/busybox")))
			if err := os.Chmod(filepath.Join(c.dir, "busybox"), 0o755); err != nil {
				t.Fatal(err)
			}
			testKey(t, c.dir)
			c.write(t, "bake.hcl", `target "default" {
  secret = ["id=s,src=secret"]
  ssh    = ["default=key"]
}`)
			giveTo(t, user, c.dir)
			giveTo(t, user, c.cache)
			_, stderr, code := c.run(t, "build", "--progress=quiet")
			if code == 0 || strings.Count(stderr, remedy) != 1 {
				t.Errorf("exit %d, want %q once, got\n%s", code, remedy, stderr)
			}
		})
	}
}

package main

import (
	"strings"
	"testing"
)

const testedDockerfile = `FROM scratch
COPY --from=host busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN printf 'root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n' >/etc/passwd && printf 'crew:x:1001:\n' >/etc/group
RUN printf 'hello\nworld\n' >/motd && chown app:crew /motd && chmod 4750 /motd && ln -s motd /link \
    && mkdir -m 1777 /spool /tmp
WORKDIR /srv
USER app
ENV PORT=8080
EXPOSE 8080 53/udp
VOLUME /data
LABEL vendor=acme build=42
ENTRYPOINT ["/bin/sh", "-c"]
CMD ["id"]
`

const testedProject = `target "default" {
  contexts = { host = "/bin" }
  tags     = ["tested:1"]
  output   = ["type=image"]
  %s
}
`

const goodTests = `
  test "command" {
    command         = "id -un; pwd; echo $PORT $NEW $PATH; echo oops >&2; exit 7"
    setup           = ["echo first >/tmp/x", ["cp", "/tmp/x", "/tmp/made"], "ls -l /tmp/made"]
    env             = { NEW = "$PORT-x", PATH = "/none:$PATH" }
    exit-code       = 7
    stdout-contains = ["app\n/srv\n"]
    stdout-matches  = ["^8080 8080-x /none:/usr/local/sbin:"]
    stdout-excludes = ["first"]
    stderr-matches  = ["^oops$"]
  }
  test "setup stays" {
    command = ["cat", "/spool/x"]
    setup   = ["echo first >/spool/x", "echo second >>/spool/x"]
    stdout  = "first\nsecond\n"
    stderr  = ""
  }
  test "root" {
    command = ["id", "-u"]
    user    = "root"
    stdout  = "0\n"
  }
  test "file" {
    file             = "/motd"
    mode             = "4750"
    owner            = "app:crew"
    executable-by    = "group"
    content          = "hello\nworld\n"
    content-contains = ["world"]
    content-matches  = ["^hello$"]
    content-excludes = ["bye"]
  }
  test "link" {
    file  = "/link"
    owner = "1000:1001"
    mode  = "-rwsr-x---"
  }
  test "directory" {
    file = "/spool"
    mode = "drwxrwxrwt"
  }
  test "absent" {
    file   = "/motd/below"
    exists = false
  }
  test "config" {
    config {
      user         = "app"
      workdir      = "/srv"
      entrypoint   = ["/bin/sh", "-c"]
      cmd          = ["id"]
      env          = { PORT = "8080" }
      env-matches  = { PATH = "^/usr/local/sbin:" }
      no-env       = ["SECRET"]
      labels       = { vendor = "acme" }
      labels-match = { build = "^\\d+$" }
      ports        = ["8080", "53/udp"]
      no-ports     = ["22"]
      volumes      = ["/data"]
      no-volumes   = ["/srv"]
    }
  }
  test "structure" { structure = "cst.yaml" }
`

const testedStructure = `schemaVersion: 2.0.0
globalEnvVars: [{key: PATH, value: "$PATH:/extra"}]
commandTests:
- {name: cst command, command: sh, args: [-c, 'echo $PATH; exit 1'],
   expectedOutput: [':/extra$'], exitCode: 1, teardown: [[false]]}
fileExistenceTests:
- {name: cst there, path: /motd, permissions: '-rwsr-x---', uid: 1000, gid: 1001, isExecutableBy: owner}
- {name: cst gone, path: /nowhere, shouldExist: false}
fileContentTests:
- {name: cst content, path: /motd, expectedContents: ['^world$'], excludedContents: [bye]}
metadataTest: {user: app, exposedPorts: ["8080"], labels: [{key: build, value: '4.', isRegex: true}]}
`

// badTests are tests that fail, each with a pattern of its message.
var badTests = []struct{ test, message string }{
	{`command = "exit 3"`, `exit code: want 0, got 3`},
	{`command = "echo a; echo b >&2"
      stdout = "b\n"
      stderr-contains = ["c"]`, `stdout: want "b\\n", got "a\\n"\n  stderr: want a text that contains "c", got "b\\n"`},
	{`command = "echo abc"
      stdout-matches  = ["^b"]
      stdout-excludes = ["b."]`, `stdout: want a match of "\^b", got "abc\\n"\n` +
		`  stdout: want no match of "b.", got "bc"`},
	{`command = "true"
      setup = ["exit 4"]`, `setup.*: exit code 4`},
	{`command = ["/missing"]`, `exit code: want 0, got 1(27)?(\n|;)`},
	{`file = "/nowhere"`, `/nowhere: want it to exist, got no such file`},
	{`file = "/link"
      exists = false`, `/link: want no such file, got a file`},
	{`file = "/motd"
      mode = "0644"
      owner = "root:nobody"
      executable-by = "other"
      content = "x"`, `mode: want 0644, got 4750\n  mode: want executable by other, got 4750\n` +
		`  owner: want root, got 1000\n  ` +
		`group: want nobody, got 1001, and the image has no group nobody\n  content: want "x", got "hello\\nworld\\n"`},
	{`file = "/spool"
      content-contains = ["x"]`, `content: want a file, got a directory`},
	{`config = { user = "root", cmd = [], env = { PORT = "1", MORE = "x" }, ports = ["22"], ` +
		`no-volumes = ["/data"], labels-match = { vendor = "x" } }`,
		`user: want "root", got "app"\n  cmd: want \[\], got \["id"\]\n  env MORE: want "x", got none\n` +
			`  env PORT: want "1", got "8080"\n  ` +
			`label vendor: want a match of "x", got "acme"\n  port: want 22/tcp, got \["53/udp" "8080/tcp"\]\n` +
			`  volume /data: want none, got one`},
}

// TestImageTests shows that both engines run the tests of images, and report failed ones, in the same way.
func TestImageTests(t *testing.T) {
	needSandbox(t)
	t.Run("embedded", func(t *testing.T) { testImageTests(t, "embedded") })
	t.Run("buildkitd", func(t *testing.T) { testImageTests(t, startBuildKit(t).address) })
}

// testImageTests builds with tests that pass, which are cached, and with tests that fail, which keep the tag from
// moving.
func testImageTests(t *testing.T, engine string) {
	c := newCLI(t)
	c.env["BAKE_ENGINE"], c.env["BUILDX_BAKE_ENTITLEMENTS_FS"] = engine, "0"
	c.write(t, "Dockerfile", testedDockerfile)
	c.write(t, "cst.yaml", testedStructure)
	project := func(tests string) { c.write(t, "bake.hcl", strings.Replace(testedProject, "%s", tests, 1)) }

	project(goodTests)
	_, stderr := c.ok(t, "build", "--progress=plain")
	wantMatch(t, "the tests ran", stderr, `\[test\] command\n(?s:.*)built tested:1 sha256`)
	_, stderr = c.ok(t, "build", "--progress=plain")
	for _, name := range []string{"command", "file", "config", "cst command", "cst gone", "metadata"} {
		wantMatch(t, "a test that has passed does not run again", stderr, `\[test\] `+name+`\n#\d+ CACHED`)
	}
	stdout, _ := c.ok(t, "image", "ls")
	before := digestOf(stdout)

	// All failures of a test are reported. The tag does not move although the image differs.
	var all strings.Builder
	for i, bad := range badTests {
		all.WriteString("test \"bad " + string(rune('a'+i)) + "\" {\n" + bad.test + "\n}\n")
	}
	project(all.String() + "\nlabels = { other = \"image\" }")
	_, stderr, code := c.run(t, "build", "--progress=none", "-j", "defer-error")
	if code != 1 {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	for i, bad := range badTests {
		wantMatch(t, bad.test, stderr, `error: target default: bake.hcl:\d+: \[test\] bad `+string(rune('a'+i))+`: (`+
			bad.message+`)`)
	}
	if stdout, _ = c.ok(t, "image", "ls"); digestOf(stdout) != before {
		t.Errorf("the tag moved:\n%s", stdout)
	}
	_, stderr, code = c.run(t, "build", "--progress=none")
	if n := strings.Count(stderr, "error:"); code != 1 || n != 1 {
		t.Errorf("without defer-error: exit code %d, %d errors\n%s", code, n, stderr)
	}
	// Without the tests the tag moves.
	c.ok(t, "build", "--progress=none", "--set", "*.test=")
	if stdout, _ = c.ok(t, "image", "ls"); digestOf(stdout) == before {
		t.Errorf("the tag did not move:\n%s", stdout)
	}
}

// digestOf returns the digest of the tested image from the output of image ls, or "".
func digestOf(ls string) string {
	for line := range strings.Lines(ls) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "tested:1" {
			return fields[1]
		}
	}
	return ""
}

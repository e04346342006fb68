package main

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Variables of TestSoak: how long it runs for each user, and the seed that a failed run printed.
const (
	soakTimeVariable = "BAKE_TEST_SOAK"
	soakSeedVariable = "BAKE_TEST_SEED"
	soakTime         = 5 * time.Second
	soakVersions     = 4 // versions of each target
	soakWorkers      = 4
)

// soakTargets share steps, layers and a cache mount. What they contain depends on their name and the version only.
const soakTargets = `variable "V" { default = "0" }
target "default" {
  name = name
  matrix = { name = ["a", "b", "c"] }
  args = { NAME = name, V = V }
  context = "files"
  tags = ["soak.test/${name}:v${V}"]
  dockerfile-inline = <<EOF
FROM scratch AS tools
COPY --chmod=755 busybox /bin/sh
RUN mkdir /own; head -c 300000 /dev/zero | tr '\0' o >/own/big; chmod 4711 /own/big; ln -s big /own/link
FROM tools AS work
ARG NAME V
RUN --mount=type=cache,target=/c,sharing=locked echo $V >>/c/all; head -c 200000 /dev/zero | tr '\0' $V >/of-$NAME
COPY --chown=5:6 text /$NAME/
RUN cp -a /own /$NAME/; rm -r /own; sleep 0.0$V
FROM scratch
COPY --from=work /of-* /a* /b* /c* /out/
EOF
}`

// soak is a cache on which several processes work at the same time, and what the images that they built were.
type soak struct {
	c       *cli
	archive string // with the image of version 0 of target a

	mu    sync.Mutex
	built map[string]string // digests by name
	did   map[string]int    // operations by kind
}

// TestSoak builds, prunes, checks, repairs, loads, tags, interrupts and kills on one cache with several processes at a
// time, as root and as an ordinary user. Afterwards nothing is damaged or left over, and every image is that of a fresh
// cache. BAKE_TEST_SOAK=10m makes it run that long for each user, and BAKE_TEST_SEED repeats the choices of a run.
func TestSoak(t *testing.T) {
	needSandbox(t)
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		skip(t, "needs a static /bin/busybox")
	}
	long, seed := soakTime, rand.Uint64()
	if v := os.Getenv(soakTimeVariable); v != "" {
		if long, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
	}
	if v := os.Getenv(soakSeedVariable); v != "" {
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s for each user, %s=%d", long, soakSeedVariable, seed)
	for _, name := range []string{"root", "ordinary user"} {
		t.Run(name, func(t *testing.T) {
			var user *syscall.Credential
			if name != "root" {
				user = testUser(t)
			}
			s := &soak{c: newCLI(t), built: map[string]string{}, did: map[string]int{}}
			s.c.env["BAKE_CACHE_SIZE"] = "12MB" // so that builds evict
			s.c.write(t, "files/busybox", string(busybox))
			s.c.write(t, "files/text", "text\n")
			s.c.write(t, "bake.hcl", soakTargets)
			s.archive = filepath.Join(s.c.dir, "a.tar")
			if s.c.user = user; user != nil {
				giveTo(t, user, s.c.dir)
				giveTo(t, user, s.c.cache)
			}
			s.c.ok(t, "build", "--progress=none", "a", "--set", "a.output=type=oci,dest="+s.archive)
			s.run(t, time.Now().Add(long), seed)
			s.compare(t)
		})
	}
}

// run lets the workers choose operations until a time.
func (s *soak) run(t *testing.T, until time.Time, seed uint64) {
	var wg sync.WaitGroup
	for n := range soakWorkers {
		random := rand.New(rand.NewPCG(seed, uint64(n)))
		wg.Go(func() {
			for time.Now().Before(until) && !t.Failed() {
				s.operate(t, random)
			}
		})
	}
	wg.Wait()
	t.Logf("did %v", s.did)
}

// operate does one operation, and checks its result.
func (s *soak) operate(t *testing.T, random *rand.Rand) {
	version := strconv.Itoa(random.IntN(soakVersions))
	targets := []string{"a", "b", "c"}[:1+random.IntN(3)]
	build := append([]string{"build", "--progress=none"}, targets...)
	operations := []struct {
		kind string
		args []string
	}{
		{"build", build}, {"build", build}, {"kill", build}, {"kill", build}, {"interrupt", build},
		{"prune", []string{"cache", "prune", "--all"}},
		{"prune", []string{"cache", "prune", "--keep-size=4MB"}},
		{"kill", []string{"cache", "prune", "--all"}},
		{"check", []string{"cache", "check"}},
		{"repair", []string{"cache", "check", "--repair"}},
		{"kill", []string{"cache", "check", "--repair"}},
		{"load", []string{"image", "load", "-i", s.archive}},
		{"kill", []string{"image", "load", "-i", s.archive}},
		{"du", []string{"cache", "du"}},
		{"ls", []string{"image", "ls"}},
		{"rm", []string{"image", "rm", "soak.test/" + targets[len(targets)-1] + ":v" + version}},
	}
	o := operations[random.IntN(len(operations))]
	cmd := s.command(t, version, o.args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	if signal := map[string]os.Signal{"kill": os.Kill, "interrupt": os.Interrupt}[o.kind]; signal != nil {
		// Most operations end within this time, some before the signal.
		time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
		_ = cmd.Process.Signal(signal) // it may have ended
	}
	_ = cmd.Wait()
	code := cmd.ProcessState.ExitCode()
	s.mu.Lock()
	s.did[o.kind]++
	s.mu.Unlock()
	wrong := map[string]bool{"build": code != 0, "prune": code != 0, "check": code != 0, "repair": code != 0,
		"load": code != 0, "du": code != 0, "ls": code != 0, "rm": code != 0 && code != exitUsage, // another removed it
		"interrupt": code > 0 && code != 130, "kill": code > 0}[o.kind] // -1: the signal came first
	if wrong || o.kind == "repair" && !strings.Contains(out.String(), "nothing is damaged") {
		t.Errorf("%s %q, version %s: exit %d\n%s", o.kind, o.args, version, code, out.String())
	}
	if o.args[0] == "build" && code == 0 {
		s.note(t, out.String())
	}
}

// command returns a command that runs bake for a version of the targets.
func (s *soak) command(t *testing.T, version string, args ...string) *exec.Cmd {
	cmd := bakeCommand(t, args...)
	cmd.Dir = s.c.dir
	cmd.Env = append(os.Environ(), "BAKE_CACHE_DIR="+s.c.cache, "V="+version)
	for k, v := range s.c.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	if s.c.user != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.c.user}
		cmd.Env = append(cmd.Env, "HOME="+s.c.cache, "XDG_CACHE_HOME=", "XDG_RUNTIME_DIR=")
	}
	return cmd
}

// builtLine is a line about an image, at the end of a build.
var builtLine = regexp.MustCompile(`(?m)^(?:built|unchanged) (soak\.test/\S+) (sha256:[0-9a-f]{64})$`)

// note compares the images of a build with those of earlier builds.
func (s *soak) note(t *testing.T, out string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range builtLine.FindAllStringSubmatch(out, -1) {
		if had := s.built[m[1]]; had != "" && had != m[2] {
			t.Errorf("%s is %s, and was %s", m[1], m[2], had)
		}
		s.built[m[1]] = m[2]
	}
}

// compare checks what is left in the cache, and builds everything again there and in a fresh cache.
func (s *soak) compare(t *testing.T) {
	if out, stderr, code := s.c.run(t, "cache", "check"); code != 0 {
		t.Errorf("check exits with %d:\n%s%s", code, out, stderr)
	}
	for _, left := range []string{"tmp/*", "locks/" + strings.Repeat("?", 64)} {
		if names, err := filepath.Glob(filepath.Join(s.c.cache, left)); err != nil || len(names) > soakWorkers {
			t.Errorf("left over: %q, %v", names, err)
		}
	}
	fresh := t.TempDir()
	if s.c.user != nil {
		giveTo(t, s.c.user, fresh)
	}
	for _, cache := range []string{s.c.cache, fresh} {
		s.c.cache = cache
		for v := range soakVersions {
			cmd := s.command(t, strconv.Itoa(v), "build", "--progress=none")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("version %d in %s: %v\n%s", v, cache, err, out)
			}
			s.note(t, string(out))
		}
	}
	if len(s.built) != 3*soakVersions {
		t.Errorf("built %v", s.built)
	}
	if out, stderr, code := s.c.run(t, "cache", "check"); code != 0 {
		t.Errorf("check of the fresh cache exits with %d:\n%s%s", code, out, stderr)
	}
}

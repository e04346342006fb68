package main

import (
	"encoding/json"
	"strings"
	"testing"
)

const (
	unknownUser  = `unknown user "appusr": /etc/passwd of the stage has root, app, 1234, so the files get root`
	unknownGroup = `unknown group "nosuch": /etc/group of the stage has root, app, audio, dev, ` +
		`so the files get the group of the user`
	unknownMaker = `unknown user "maker": /etc/passwd of the stage has root, app, 1234, so the files get root`
)

// ownersFile names owners that exist and some that do not, in all instructions that have owners.
const ownersFile = `FROM REGISTRY/busybox:1
COPY --chown=appusr f /a
ADD --chown=app:nosuch f /b
COPY --chown=app:dev f /c
COPY --chown=7:8 f /d
USER maker
WORKDIR /made
USER root
RUN stat -c '%n %u:%g' /a /b /c /d /made
`

func wantWarnings(t *testing.T, what, stderr string) {
	t.Helper()
	for _, want := range []string{
		"warning: Dockerfile:2: UnknownOwner: " + unknownUser + "\n",
		"warning: Dockerfile:3: UnknownOwner: " + unknownGroup + "\n",
		"warning: Dockerfile:7: UnknownOwner: " + unknownMaker + "\n",
	} {
		if strings.Count(stderr, want) != 1 {
			t.Errorf("%s: want once: %s got\n%s", what, want, stderr)
		}
	}
	if n := strings.Count(stderr, "UnknownOwner"); n != 3 {
		t.Errorf("%s: %d warnings, want 3", what, n)
	}
}

// TestUnknownOwner: a user or group that the stage does not have gives root's files, as in BuildKit, and a warning with
// the line and the names that exist: when the step runs, when it is cached, and when another stage shares its result.
func TestUnknownOwner(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "docker-bake.hcl", `target "default" { output = ["type=cacheonly"] }`)
	c.write(t, "f", "f")
	file := strings.ReplaceAll(ownersFile, "REGISTRY", serveBases(t))
	c.write(t, "Dockerfile", file)
	_, stderr := c.ok(t, "build", "--progress=plain")
	wantWarnings(t, "first build", stderr)
	for _, want := range []string{`/a 0:0$`, `/b 1000:1000$`, `/c 1000:50$`, `/d 7:8$`, `/made 0:0$`} {
		wantMatch(t, want, stderr, "(?m)"+want)
	}
	_, stderr = c.ok(t, "build", "--progress=plain")
	wantWarnings(t, "cached", stderr)
	_, stderr = c.ok(t, "plan")
	wantWarnings(t, "plan", stderr)
	c.write(t, "Dockerfile", strings.Replace(file, "\n", "\nRUN touch /other\n", 1))
	_, stderr = c.ok(t, "build", "--progress=plain")
	if strings.Count(stderr, "UnknownOwner: "+unknownUser) != 1 {
		t.Errorf("no warning of a shared result:\n%s", stderr)
	}
}

// TestUnknownOwnerIsError: check=error=true, in the file and as a build argument, makes unknown owners errors, whether
// the step runs or is cached; skip leaves them out.
func TestUnknownOwnerIsError(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "docker-bake.hcl", `target "default" { output = ["type=cacheonly"] }`)
	c.write(t, "f", "f")
	file := strings.ReplaceAll(ownersFile, "REGISTRY", serveBases(t))
	c.write(t, "Dockerfile", "# check=skip=UnknownOwner;error=true\n"+file)
	if _, stderr := c.ok(t, "build"); strings.Contains(stderr, "unknown") {
		t.Errorf("a skipped rule is reported:\n%s", stderr)
	}
	for _, directive := range []string{"# check=error=true\n", "# check=skip=JSONArgsRecommended;error=true\n"} {
		c.write(t, "Dockerfile", directive+file)
		_, stderr, code := c.run(t, "build")
		if code != 1 || !strings.Contains(stderr, "Dockerfile:3: ") ||
			!strings.Contains(stderr, unknownUser+"; check=error") {
			t.Errorf("cached: exit %d:\n%s", code, stderr)
		}
		_, stderr, code = c.run(t, "build", "--no-cache")
		if code != 1 || !strings.Contains(stderr, unknownUser) {
			t.Errorf("run: exit %d:\n%s", code, stderr)
		}
	}
	c.write(t, "Dockerfile", file)
	argument := "*.args.BUILDKIT_DOCKERFILE_CHECK="
	if _, stderr, code := c.run(t, "build", "--set", argument+"error=true"); code != 1 {
		t.Errorf("exit %d:\n%s", code, stderr)
	}
	if _, stderr := c.ok(t, "build", "--set", argument+"skip=all"); strings.Contains(stderr, "unknown") {
		t.Errorf("a skipped rule is reported:\n%s", stderr)
	}
}

// TestCheckOwners: --check finds unknown owners and users in stages that are on this machine, and says that it cannot
// look into others. It runs and downloads nothing.
func TestCheckOwners(t *testing.T) {
	needSandbox(t)
	c := newCLI(t)
	c.write(t, "docker-bake.hcl", `target "default" { output = ["type=cacheonly"] }`)
	c.write(t, "f", "f")
	file := strings.ReplaceAll(ownersFile, "REGISTRY", serveBases(t)) + "USER ghost\n"
	c.write(t, "Dockerfile", file)
	_, stderr := c.ok(t, "build", "--check")
	wantMatch(t, "what is not checked", stderr, `note: Dockerfile:2: .*is not checked, because its stage is not built`)
	c.ok(t, "build")
	stdout, stderr, code := c.run(t, "build", "--check")
	for _, want := range []string{"4 warnings", "WARNING: UnknownOwner\n" + unknownUser + "\nDockerfile:2\n",
		unknownGroup, unknownMaker,
		`unknown user "ghost": /etc/passwd of the stage has root, app, 1234, so the image cannot`} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s%s", want, stdout, stderr)
		}
	}
	if code != 1 {
		t.Errorf("exit %d", code)
	}
	stdout, _, _ = c.run(t, "build", "--call", "check,format=json")
	var printed struct {
		Target map[string]struct {
			Check struct {
				Warnings []struct{ RuleName, Detail string }
			}
		}
	}
	if err := json.Unmarshal([]byte(stdout), &printed); err != nil {
		t.Fatal(err)
	}
	w := printed.Target["default"].Check.Warnings
	if len(w) != 4 || w[0].RuleName != "UnknownOwner" || w[0].Detail != unknownUser {
		t.Errorf("got %v", w)
	}
	c.write(t, "Dockerfile", "# check=skip=UnknownOwner\n"+file)
	c.ok(t, "build", "--check")
	c.write(t, "Dockerfile", file+"RUN true\n")
	_, stderr, code = c.run(t, "build")
	wantMatch(t, "the names that exist", stderr, `unknown user "ghost": /etc/passwd of the stage has root, app, 1234`)
	if code != 1 {
		t.Errorf("exit %d", code)
	}
}

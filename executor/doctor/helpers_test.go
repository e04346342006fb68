package doctor

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCredentialHelpers runs helpers that work, fail, hang with a child of their own, and do not exist.
func TestCredentialHelpers(t *testing.T) {
	bin, home := t.TempDir(), t.TempDir()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin)
	env := func(name string) (string, bool) {
		return map[string]string{"DOCKER_CONFIG": home}[name], name == "DOCKER_CONFIG"
	}
	one := func(config string) Finding {
		t.Helper()
		if err := os.WriteFile(filepath.Join(home, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		checks := helpers(env)
		if len(checks) != 1 {
			t.Fatalf("%d checks, want 1", len(checks))
		}
		return found(t, checks[0])
	}
	program := func(name, commands string) { script(t, filepath.Join(bin, "docker-credential-"+name), commands) }

	program("good", `test "$1" = list && echo '{"https://a":"secret-user"}'`)
	f := one(`{"credsStore":"good","credHelpers":{"b.example.com":"good"}}`)
	f.want(t, OK, "docker-credential-good starts; credentials of all registries", "")
	if strings.Contains(f.Detail, "secret-user") {
		t.Errorf("%q shows the answer", f.Detail)
	}
	one(`{"credHelpers":{"b.example.com":"good","a.example.com":"good"}}`).
		want(t, OK, "credentials of a.example.com, b.example.com", "")
	one(`{"credsStore":"gone"}`).want(t, Failure, "docker-credential-gone, which "+home, "install it, or remove it")
	program("fails", "echo no keyring >&2; exit 3")
	one(`{"credsStore":"fails"}`).want(t, Warning, "exit status 3: no keyring", "run: docker-credential-fails list")
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-broken"), []byte("\x7fELF"), 0o755); err != nil {
		t.Fatal(err)
	}
	one(`{"credsStore":"broken"}`).want(t, Failure, "cannot be started: ", "reinstall it")
	program("hangs", sleep+" 60 & "+sleep+" 60")
	start := time.Now()
	one(`{"credsStore":"hangs"}`).want(t, Failure, "does not end", "run: docker-credential-hangs list")
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("took %s", took)
	}
	one(`{"credsStore":`).want(t, Failure, filepath.Join(home, "config.json"), "correct the file")
	if err := os.Remove(filepath.Join(home, "config.json")); err != nil {
		t.Fatal(err)
	}
	if checks := helpers(env); len(checks) > 0 {
		t.Errorf("checks without helpers: %+v", checks)
	}
}

package registry

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

const whole = "*" // the whole registry

// scopedKey is a key of a file of credentials, and what it is for.
type scopedKey struct{ key, host, path string }

func scopedKeys() []scopedKey {
	return []scopedKey{
		{"reg.example.com", "reg.example.com", whole},
		{"reg.example.com/", "reg.example.com", whole},
		{"reg.example.com:5000", "reg.example.com:5000", whole},
		{"[2001:db8::1]:5000", "[2001:db8::1]:5000", whole},
		{"https://reg.example.com", "reg.example.com", whole},
		{"http://reg.example.com:5000/", "reg.example.com:5000", whole},
		{"https://reg.example.com/v1/", "reg.example.com", whole},
		{"https://reg.example.com/v1", "reg.example.com", whole},
		{"https://reg.example.com:5000/v2/", "reg.example.com:5000", whole},
		{"https://reg.example.com/v2", "reg.example.com", whole},
		{"reg.example.com/v1/", "reg.example.com", whole},
		{"reg.example.com/v2/", "reg.example.com", whole},
		{"https://index.docker.io/v1/", "index.docker.io", whole},
		{"index.docker.io/v1/", "index.docker.io", whole},
		{"https://index.docker.io/v1", "index.docker.io", whole},
		{"index.docker.io", "index.docker.io", whole},
		{"docker.io", "index.docker.io", whole},

		{"reg.example.com/team", "reg.example.com", "team"},
		{"reg.example.com/team/", "reg.example.com", "team"},
		{"reg.example.com/team/app", "reg.example.com", "team/app"},
		{"reg.example.com:5000/team", "reg.example.com:5000", "team"},
		{"https://reg.example.com/team/app", "reg.example.com", "team/app"},
		{"reg.example.com/v1", "reg.example.com", "v1"},
		{"reg.example.com/v2", "reg.example.com", "v2"},
		{"reg.example.com/v1team", "reg.example.com", "v1team"},
		{"reg.example.com/v1team/app", "reg.example.com", "v1team/app"},
		{"reg.example.com:5000/v1team/app", "reg.example.com:5000", "v1team/app"},
		{"reg.example.com/v2-services/app", "reg.example.com", "v2-services/app"},
		{"reg.example.com/v1.2/app", "reg.example.com", "v1.2/app"},
		{"reg.example.com/v10", "reg.example.com", "v10"},
		{"reg.example.com/v20/", "reg.example.com", "v20"},
		{"reg.example.com/v1/app", "reg.example.com", "v1/app"},
		{"reg.example.com/v2/app/", "reg.example.com", "v2/app"},
		{"https://reg.example.com/v1team/app", "reg.example.com", "v1team/app"},
		{"https://reg.example.com/v1/app", "reg.example.com", "v1/app"},
		{"https://reg.example.com/v2/app", "reg.example.com", "v2/app"},
		{"docker.io/team", "index.docker.io", "team"},
		{"docker.io/v1team/app", "index.docker.io", "v1team/app"},
		{"index.docker.io/v1team", "index.docker.io", "v1team"},
		{"https://index.docker.io/v1/refresh-token", "index.docker.io", "v1/refresh-token"},
	}
}

// TestScopedCredentials checks, for each way to write a key of a file of credentials, which repositories get them.
func TestScopedCredentials(t *testing.T) {
	for _, test := range scopedKeys() {
		k := keychainOf(t, fmt.Sprintf(`{"auths":{%q:{"auth":"dXNlcjpzZWNyZXQ="}}}`, test.key))
		want := map[string]bool{"other/thing": test.path == whole, "team-x/app": test.path == whole}
		if test.path != whole {
			want[test.path+"/more"], want[test.path+"more"] = true, false
			if test.host != "index.docker.io" { // there, a name of one component is below library
				want[test.path] = true
			}
		}
		for path, gets := range want {
			if got := secretFor(t, k, test.host+"/"+path); got != map[bool]string{true: "secret"}[gets] {
				t.Errorf("%s: %s/%s gets %q", test.key, test.host, path, got)
			}
		}
		for _, other := range []string{"other.example.com", test.host + ":1", "x" + test.host} {
			if test.host == "[2001:db8::1]:5000" {
				continue
			}
			if other == test.host+":1" && filepath.Ext(test.host) == ".com:5000" {
				other = "reg.example.com:5001"
			}
			path := test.path
			if path == whole {
				path = "team"
			}
			if got := secretFor(t, k, other+"/"+path); got != "" {
				t.Errorf("%s: %s gets %q", test.key, other, got)
			}
		}
	}
}

// TestNarrowCredentialsFirst checks that the longest path counts, then the host, whatever the keys look like.
func TestNarrowCredentialsFirst(t *testing.T) {
	k := keychainOf(t, `{"auths":{"https://reg.example.com/v2/":{"auth":"YTpsZWdhY3k="},
		"reg.example.com":{"auth":"YTpob3N0"},"reg.example.com/v1team":{"auth":"YTp0ZWFt"},
		"reg.example.com/v1team/app":{"auth":"YTphcHA="}}}`)
	for path, want := range map[string]string{
		"x": "host", "v1": "host", "v1team": "team", "v1team/x": "team", "v1team/app": "app", "v1team/app/x": "app",
	} {
		if got := secretFor(t, k, "reg.example.com/"+path); got != want {
			t.Errorf("%s gets %q, want %q", path, got, want)
		}
	}
}

// TestHelperOfPath checks that a helper of a path does not serve the host, and that Docker Hub's helper is found under
// each of its names.
func TestHelperOfPath(t *testing.T) {
	for key, repository := range map[string]string{
		"https://index.docker.io/v1/": "index.docker.io/team/app", "index.docker.io": "index.docker.io/team/app",
		"docker.io": "index.docker.io/team/app", "reg.example.com": "reg.example.com/app",
		"reg.example.com:5000": "reg.example.com:5000/app",
	} {
		dir := useHelper(t, key, "echo '{\"Username\":\"me\",\"Secret\":\"hunter22\"}'\n")
		k := newKeychain([]string{filepath.Join(dir, "config.json")}, time.Minute)
		if got := secretFor(t, k, repository); got != "hunter22" {
			t.Errorf("helper of %s: %s gets %q", key, repository, got)
		}
		if got := secretFor(t, k, "other.example.com/app"); got != "" {
			t.Errorf("helper of %s: another host gets %q", key, got)
		}
	}
	dir := useHelper(t, "reg.example.com/v1team", "echo '{\"Username\":\"me\",\"Secret\":\"hunter22\"}'\n")
	k := newKeychain([]string{filepath.Join(dir, "config.json")}, time.Minute)
	if got := secretFor(t, k, "reg.example.com/other"); got != "" {
		t.Errorf("the helper of a path serves the host: %q", got)
	}
}

// keychainOf returns the keychain of one file.
func keychainOf(t *testing.T, content string) *keychain {
	t.Helper()
	file := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return newKeychain([]string{file}, time.Minute)
}

// secretFor returns the password that requests for a repository would carry.
func secretFor(t *testing.T, k *keychain, repository string) string {
	t.Helper()
	repo, err := name.NewRepository(repository)
	if err != nil {
		t.Fatal(err)
	}
	auth, err := k.Resolve(repo)
	if err != nil {
		t.Fatal(err)
	}
	c, err := auth.Authorization()
	if err != nil {
		t.Fatal(err)
	}
	return c.Password
}

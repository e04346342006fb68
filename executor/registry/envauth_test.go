package registry

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// TestEnvAuth shows that DOCKER_AUTH_CONFIG gives credentials, and that a wrong value is an error that quotes no
// secret, not an anonymous request.
func TestEnvAuth(t *testing.T) {
	good := base64.StdEncoding.EncodeToString([]byte("me:hunter2"))
	repo, err := name.NewRepository("reg.example.com/app")
	if err != nil {
		t.Fatal(err)
	}
	entry := func(fields string) string { return `{"auths":{"reg.example.com":{` + fields + `}}}` }
	for value, fault := range map[string]string{
		entry(`"auth":"` + good + `"`): "",
		`{"auths":{}}`:                 "",
		`hunter2`:                      "not the JSON",
		entry(`"auth":""`):             "no valid auth for reg.example.com",
		entry(`"auth":"hunter2!"`):     "no valid auth for reg.example.com",
		entry(`"auth":"` + good + `","password":"hunter2"`): "not the JSON",
		`{"auths":{}} {"hunter2":1}`:                        "text after the JSON",
		strings.Repeat(" ", maxEnvAuth+1):                   "more than",
	} {
		t.Setenv("DOCKER_AUTH_CONFIG", value)
		k := newKeychain(nil, time.Minute)
		k.variable = value
		_, err := k.Resolve(repo)
		switch {
		case fault == "" && err != nil:
			t.Errorf("%.60s: %v", value, err)
		case fault != "" && (err == nil || !strings.Contains(err.Error(), fault)):
			t.Errorf("%.60s: got %v, want %s", value, err, fault)
		case err != nil && strings.Contains(err.Error(), "hunter2"):
			t.Errorf("%.60s: the message quotes the value: %v", value, err)
		}
	}
}

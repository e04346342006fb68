package registry

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/docker/cli/cli/config/configfile"
)

// maxEnvAuth bounds the environment variable with credentials, in bytes.
const maxEnvAuth = 1 << 20

// checkEnvAuth returns an error if the value of DOCKER_AUTH_CONFIG is not what Docker accepts: the library
// prints such an error for each registry and goes on without credentials. The error quotes nothing of the value.
func checkEnvAuth(value string) error {
	if value == "" {
		return nil
	}
	fault := func(format string, args ...any) error {
		return errors.New(configfile.DockerEnvConfigKey + ": " + fmt.Sprintf(format, args...) +
			`; expected {"auths": {"HOST": {"auth": "base64 of USER:PASSWORD"}}}`)
	}
	if len(value) > maxEnvAuth {
		return fault("more than %d bytes", maxEnvAuth)
	}
	var config struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	d := json.NewDecoder(strings.NewReader(value))
	d.DisallowUnknownFields()
	if err := d.Decode(&config); err != nil && !errors.Is(err, io.EOF) {
		return fault("not the JSON of credentials")
	}
	if d.More() {
		return fault("text after the JSON")
	}
	for host, entry := range config.Auths {
		raw, err := base64.StdEncoding.DecodeString(entry.Auth)
		if err != nil || strings.IndexByte(string(raw), ':') < 1 {
			return fault("no valid auth for %s", clean(host))
		}
	}
	return nil
}

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/executortest"
)

// secureRegistry serves a fake over TLS.
type secureRegistry struct {
	*fake
	host, port string // as clients use them
}

// serveTLS serves a fake over TLS. If clients is not nil, clients must present a certificate of that authority.
func serveTLS(t *testing.T, f *fake, by, clients *executortest.Authority, until time.Time) secureRegistry {
	t.Helper()
	cert, key, err := by.Issue(until, "registry.test", "mirror.test", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(f.Config.Handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if clients != nil {
		server.TLS.ClientCAs = x509.NewCertPool()
		server.TLS.ClientCAs.AppendCertsFromPEM(clients.PEM)
		server.TLS.ClientAuth = tls.RequireAndVerifyClientCert
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	_, port, err := net.SplitHostPort(strings.TrimPrefix(server.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	return secureRegistry{f, "registry.test:" + port, port}
}

// toLoopback returns a transport that resolves every name to this machine.
func toLoopback() *http.Transport {
	t := usualTransport()
	t.Proxy = nil
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		return (&net.Dialer{}).DialContext(ctx, network, "127.0.0.1:"+port)
	}
	return t
}

func writeTo(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func authority(t *testing.T) *executortest.Authority {
	t.Helper()
	a, err := executortest.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// pullAndPush pulls an image from a registry and pushes another one to it.
func pullAndPush(c *Client, host string, image v1.Image) error {
	if _, err := c.Resolve(context.Background(), host+"/x:1", amd64); err != nil {
		return err
	}
	return c.Push(context.Background(), []PushImage{{Refs: []string{host + "/pushed:1"}, Image: image}}, nil)
}

// certificateCase is a registry, and the certificates that are configured for it.
type certificateCase struct {
	name  string
	of    secureRegistry
	host  string            // "" is registry.test
	files map[string]string // of certs.d
	ca    string            // of a block
	want  []string          // of the error; none: it works
}

func (test certificateCase) run(t *testing.T) {
	dir := t.TempDir()
	host := test.of.host
	if test.host != "" {
		host = test.host + ":" + test.of.port
	}
	for name, content := range test.files {
		writeTo(t, filepath.Join(dir, "certs.d", host, name), content)
	}
	blocks := map[string]config.Registry{}
	if test.ca != "" {
		blocks["it"] = config.Registry{Prefix: host, CA: []string{"ca.pem"}}
		writeTo(t, filepath.Join(dir, "ca.pem"), test.ca)
	}
	err := pullAndPush(blockClient(t, blocks, dir), host, newImage(t, 2))
	if len(test.want) == 0 {
		if err != nil {
			t.Error(err)
		}
		return
	}
	e := asError(t, err)
	contains(t, e, test.want...)
	if e.Temporary() {
		t.Error("a bad certificate is not temporary")
	}
}

// TestCertificates checks the certificates of certs.d and registry blocks for pulls and pushes, by name and on
// loopback. Errors must say why a certificate is not trusted, and name a damaged file.
func TestCertificates(t *testing.T) {
	ours, others := authority(t), authority(t)
	soon, gone := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	f := newFake(t, nil)
	put(t, f, "x:1", newImage(t, 1))
	open, late, closed := serveTLS(t, f, ours, nil, soon), serveTLS(t, f, ours, nil, gone),
		serveTLS(t, f, ours, ours, soon)
	client := func(by *executortest.Authority, until time.Time) map[string]string {
		cert, key, err := by.Issue(until, "me")
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{"ca.crt": string(ours.PEM), "me.cert": string(cert), "me.key": string(key)}
	}
	without := client(ours, soon)
	delete(without, "me.key")
	mixed := client(ours, soon)
	mixed["me.key"] = client(ours, soon)["me.key"]
	for _, test := range []certificateCase{
		{name: "nothing said", of: open, want: []string{"certificate is not trusted", "unknown authority"}},
		{name: "certs.d", of: open, files: map[string]string{"ca.crt": string(ours.PEM)}},
		{name: "certs.d on loopback", of: open, host: "127.0.0.1",
			files: map[string]string{"ca.crt": string(ours.PEM)}},
		{name: "block", of: open, ca: string(ours.PEM)},
		{name: "block on loopback", of: open, host: "127.0.0.1", ca: string(ours.PEM)},
		{name: "both", of: open, files: map[string]string{"other.crt": string(others.PEM)}, ca: string(ours.PEM)},
		{name: "another authority", of: open, files: map[string]string{"ca.crt": string(others.PEM)},
			want: []string{"unknown authority"}},
		{name: "another name", of: open, host: "other.test", ca: string(ours.PEM), want: []string{"not other.test"}},
		{name: "expired", of: late, ca: string(ours.PEM), want: []string{"certificate is not trusted", "expired"}},
		{name: "client", of: closed, files: client(ours, soon)},
		{name: "client on loopback", of: closed, host: "127.0.0.1", files: client(ours, soon)},
		{name: "no client certificate", of: closed, ca: string(ours.PEM),
			want: []string{"does not accept this client's certificate", "certificate required",
				"NAME.cert and NAME.key"}},
		{name: "another's client", of: closed, files: client(others, soon),
			want: []string{"does not accept this client's certificate", "certificate"}},
		{name: "expired client", of: closed, files: client(ours, gone), want: []string{"expired"}},
		{name: "no key", of: closed, files: without, want: []string{"me.key", "each .cert needs a .key"}},
		{name: "another's key", of: closed, files: mixed, want: []string{"me.cert", "private key does not match"}},
		{name: "no certificate", of: open, files: map[string]string{"ca.crt": "nothing"},
			want: []string{"ca.crt contains no certificate"}},
		{name: "no certificate in a block", of: open, ca: "nothing", want: []string{"ca.pem contains no certificate"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.run(t)
		})
	}
}

// blockClient returns a client that resolves all names to this machine, with the registry blocks of a project in dir
// and the certs.d in dir.
func blockClient(t *testing.T, blocks map[string]config.Registry, dir string, change ...func(*Options)) *Client {
	t.Helper()
	tables, err := FromBlocks(blocks, dir)
	if err != nil {
		t.Fatal(err)
	}
	change = append(change, func(o *Options) {
		o.Transport, o.CertDirs = toLoopback(), []string{filepath.Join(dir, "certs.d")}
		o.Config = o.Config.With(tables)
	})
	return newTestClient(t, change...)
}

// TestMirrorsOverTLS checks that the block of a mirror defines its protocol and certificates, that blocks take
// precedence over registries.conf, and that no other host is contacted.
func TestMirrorsOverTLS(t *testing.T) {
	ours := authority(t)
	dir := t.TempDir()
	writeTo(t, filepath.Join(dir, "ca.pem"), string(ours.PEM))
	origin, kept, plain := newFake(t, nil), newFake(t, nil), newFake(t, nil)
	image := newImage(t, 1)
	for _, f := range []*fake{origin, kept, plain} {
		put(t, f, "x:1", image)
	}
	mirror := serveTLS(t, kept, ours, nil, time.Now().Add(time.Hour))
	mirror.host = "mirror.test:" + mirror.port
	_, plainPort, err := net.SplitHostPort(plain.host)
	if err != nil {
		t.Fatal(err)
	}
	plainHost := "plain.test:" + plainPort
	secure := serveTLS(t, origin, ours, nil, time.Now().Add(time.Hour))
	insecure := true
	conf := func(o *Options) {
		o.Config = &Config{Registries: []Registry{{Prefix: secure.host, Location: secure.host, Insecure: &insecure}}}
	}
	for _, test := range []struct {
		name   string
		blocks map[string]config.Registry
		asked  *fake
		want   string
	}{
		{"https", map[string]config.Registry{
			"origin": {Prefix: secure.host, Mirrors: []string{mirror.host}},
			"mirror": {Prefix: mirror.host, CA: []string{"ca.pem"}},
		}, kept, ""},
		{"plain", map[string]config.Registry{
			"origin": {Prefix: secure.host, Mirrors: []string{plainHost}},
			"mirror": {Prefix: plainHost, PlainHTTP: true},
		}, plain, ""},
		{"mirror that is not trusted", map[string]config.Registry{
			"origin": {Prefix: secure.host, Mirrors: []string{mirror.host}, CA: []string{"ca.pem"}},
		}, origin, ""},
		{"registries.conf alone", nil, origin, ""},
		{"over registries.conf", map[string]config.Registry{"origin": {Prefix: secure.host}}, nil, "not trusted"},
		{"plain http to tls", map[string]config.Registry{"origin": {Prefix: secure.host, PlainHTTP: true}}, nil, "400"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, f := range []*fake{origin, kept, plain} {
				f.on(nil)
			}
			_, err := blockClient(t, test.blocks, dir, conf).Resolve(context.Background(), secure.host+"/x:1", amd64)
			if test.want != "" {
				contains(t, asError(t, err), test.want)
			} else if err != nil {
				t.Error(err)
			}
			for _, f := range []*fake{origin, kept, plain} {
				if n := f.count(http.MethodGet, "/manifests/"); (n > 0) != (f == test.asked) {
					t.Errorf("%s was asked %d times for the image", f.host, n)
				}
			}
		})
	}
}

// TestBadBlocks checks that errors about registry blocks name the place.
func TestBadBlocks(t *testing.T) {
	dir := t.TempDir()
	for _, bad := range []struct {
		block config.Registry
		want  string
	}{
		{config.Registry{Prefix: "https://x"}, "without http"},
		{config.Registry{Prefix: "x", Mirrors: []string{""}}, "mirror is missing"},
		{config.Registry{Prefix: "x", PlainHTTP: true, CA: []string{"ca.pem"}}, "cannot be combined"},
	} {
		bad.block.Range = config.Range{File: "bake.hcl", Line: 3, Col: 1}
		if _, err := FromBlocks(map[string]config.Registry{"it": bad.block}, dir); err == nil ||
			!strings.Contains(err.Error(), bad.want) ||
			!strings.HasPrefix(err.Error(), "bake.hcl:3:1: registry \"it\": ") {
			t.Errorf("%+v: %v", bad.block, err)
		}
	}
}

// TestCertDirs checks that the user's directories come first, and that only the first one for a host is used.
func TestCertDirs(t *testing.T) {
	env := map[string]string{"HOME": "/home/me"}
	getenv := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	if got := fmt.Sprint(CertDirs(getenv)); got != "[/home/me/.config/containers/certs.d "+
		"/home/me/.config/docker/certs.d /etc/containers/certs.d /etc/docker/certs.d]" {
		t.Error(got)
	}
	env["XDG_CONFIG_HOME"] = "/settings"
	if got := CertDirs(getenv)[0]; got != "/settings/containers/certs.d" {
		t.Error(got)
	}
	if got := fmt.Sprint(CertDirs(func(string) (string, bool) {
		return "", false
	})); got != "[/etc/containers/certs.d /etc/docker/certs.d]" {
		t.Error(got)
	}
	first, second := t.TempDir(), t.TempDir()
	writeTo(t, filepath.Join(first, "a.test", "ca.crt"), "")
	writeTo(t, filepath.Join(second, "a.test", "ca.crt"), "")
	writeTo(t, filepath.Join(second, "docker.io", "ca.crt"), "")
	c := New(Options{CertDirs: []string{first, second}})
	for host, want := range map[string]string{
		"a.test": filepath.Join(first, "a.test"), "index.docker.io": filepath.Join(second, "docker.io"), "b.test": "",
	} {
		if got := c.certDir(host); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
}

// TestPodmanLogin checks the files in which podman login stores credentials: their precedence, and that credentials
// are used only for the host or repository they are for.
func TestPodmanLogin(t *testing.T) {
	ours := authority(t)
	f := newFake(t, nil)
	put(t, f, "x:1", newImage(t, 1))
	f.on(func(w http.ResponseWriter, r *http.Request) bool {
		if u, p, _ := r.BasicAuth(); u == user && p == password {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	secure := serveTLS(t, f, ours, nil, time.Now().Add(time.Hour))
	for _, test := range []struct {
		name  string
		files map[string]string // by path below the home: what it has for which key; PORT stands for the registry's
		env   map[string]string // HOME stands for the home
		works bool
	}{
		{"nothing", nil, nil, false},
		{"runtime directory", map[string]string{"run/containers/auth.json": "HOST"},
			map[string]string{"XDG_RUNTIME_DIR": "HOME/run"}, true},
		{"home", map[string]string{".config/containers/auth.json": "HOST"}, nil, true},
		{"settings", map[string]string{"settings/containers/auth.json": "HOST"},
			map[string]string{"XDG_CONFIG_HOME": "HOME/settings"}, true},
		{"named file", map[string]string{"named.json": "HOST"},
			map[string]string{"REGISTRY_AUTH_FILE": "HOME/named.json"}, true},
		{"repository", map[string]string{".config/containers/auth.json": "HOST/x"}, nil, true},
		{"another repository", map[string]string{".config/containers/auth.json": "HOST/y"}, nil, false},
		{"another port", map[string]string{".config/containers/auth.json": "registry.test:1"}, nil, false},
		{"wrong before right", map[string]string{"run/containers/auth.json": "!HOST",
			".config/containers/auth.json": "HOST"},
			map[string]string{"XDG_RUNTIME_DIR": "HOME/run"}, false},
		{"narrow before wide", map[string]string{"run/containers/auth.json": "!HOST",
			".config/containers/auth.json": "HOST/x"},
			map[string]string{"XDG_RUNTIME_DIR": "HOME/run"}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			home := writePodmanFiles(t, test.files, secure.host)
			writeTo(t, filepath.Join(home, "certs.d", secure.host, "ca.crt"), string(ours.PEM))
			keys := NewKeychain(func(name string) (string, bool) {
				if name == "HOME" {
					return home, true
				}
				v, ok := test.env[name]
				return strings.ReplaceAll(v, "HOME", home), ok
			})
			c := blockClient(t, nil, home, func(o *Options) { o.Keychain = keys })
			_, err := c.Resolve(context.Background(), secure.host+"/x:1", amd64)
			if (err == nil) != test.works {
				t.Errorf("works: %v, want %v: %v", err == nil, test.works, err)
			}
			if err != nil {
				contains(t, asError(t, err), "401")
			}
		})
	}
}

// writePodmanFiles writes files of credentials and returns the home directory that they are in.
func writePodmanFiles(t *testing.T, files map[string]string, host string) string {
	t.Helper()
	home := t.TempDir()
	for path, key := range files {
		secret := user + ":" + password
		if rest, wrong := strings.CutPrefix(key, "!"); wrong {
			key, secret = rest, user+":wrong"
		}
		writeTo(t, filepath.Join(home, path), fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`,
			strings.ReplaceAll(key, "HOST", host), base64.StdEncoding.EncodeToString([]byte(secret))))
	}
	return home
}

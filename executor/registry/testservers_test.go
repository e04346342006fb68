package registry

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	memory "github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/crypto/bcrypt"
)

// authKind is how a registry authenticates clients.
type authKind string

const (
	authNone  authKind = "open"
	authBasic authKind = "basic"
	authToken authKind = "token"

	user, password = "me", "hunter22-secret"
	audience       = "test.registry"
)

// kinds returns the registries on which the client is tried.
func kinds() []string { return []string{"memory", "crane", "distribution"} }

// front is a faulty proxy in front of a real registry. It asks for credentials where the registry cannot. The registry
// accepts the tokens that it issues.
type front struct {
	*httptest.Server
	host   string
	auth   authKind
	native bool // the registry authenticates clients itself
	issuer *issuer
	back   *httputil.ReverseProxy

	mu      sync.Mutex
	fault   func(w http.ResponseWriter, r *http.Request) bool // true: it answered
	change  func(res *http.Response) error                    // changes what the registry answers
	corrupt func(r *http.Request)                             // changes what the registry is sent
}

// newFront starts a registry of a kind behind a proxy.
func newFront(t *testing.T, kind string, auth authKind) *front {
	t.Helper()
	f := &front{auth: auth, native: kind == "distribution"}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(f.serve))
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.Start()
	t.Cleanup(f.Close)
	f.host = strings.TrimPrefix(f.URL, "http://")
	f.issuer = newIssuer(t, f.URL)
	behind := ""
	switch kind {
	case "memory":
		s := httptest.NewServer(memory.New(memory.Logger(log.New(io.Discard, "", 0))))
		t.Cleanup(s.Close)
		behind = s.URL
	case "crane":
		behind = "http://" + serveCrane(t)
	case "distribution":
		behind = "http://" + f.serveDistribution(t)
	}
	to, err := url.Parse(behind)
	if err != nil {
		t.Fatal(err)
	}
	f.back = httputil.NewSingleHostReverseProxy(to)
	f.back.ErrorLog = log.New(io.Discard, "", 0)
	f.back.ModifyResponse = func(res *http.Response) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.change == nil {
			return nil
		}
		return f.change(res)
	}
	return f
}

// breaks sets the faults of the requests that follow.
func (f *front) breaks(fault func(http.ResponseWriter, *http.Request) bool, change func(*http.Response) error,
	corrupt func(*http.Request)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.change, f.corrupt = fault, change, corrupt
}

func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	fault, corrupt := f.fault, f.corrupt
	f.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	if r.URL.Path == "/token" {
		f.issuer.serve(w, r)
		return
	}
	if !f.native && !f.admits(w, r) {
		return
	}
	if corrupt != nil {
		corrupt(r)
	}
	f.back.ServeHTTP(w, r)
}

// admits authenticates clients for a registry that does not.
func (f *front) admits(w http.ResponseWriter, r *http.Request) bool {
	challenge := ""
	switch f.auth {
	case authNone:
		return true
	case authBasic:
		if u, p, _ := r.BasicAuth(); u == user && p == password {
			return true
		}
		challenge = `Basic realm="test"`
	case authToken:
		if f.issuer.issued(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")) {
			return true
		}
		challenge = fmt.Sprintf(`Bearer realm="%s/token",service=%q`, f.URL, audience)
	}
	w.Header().Set("WWW-Authenticate", challenge)
	w.WriteHeader(http.StatusUnauthorized)
	return false
}

func (f *front) keychain() authn.Keychain {
	if f.auth == authNone {
		return anonymous{}
	}
	return keys{f.host: {Username: user, Password: password}}
}

// issuer is a token service. It signs tokens that distribution's registry accepts.
type issuer struct {
	key  *ecdsa.PrivateKey
	cert []byte // DER
	pem  []byte
	mu   sync.Mutex
	all  map[string]bool
}

func newIssuer(t *testing.T, name string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour),
		IsCA:     true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{key: key, cert: der, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		all: map[string]bool{}}
}

func (i *issuer) issued(token string) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.all[token]
}

func (i *issuer) serve(w http.ResponseWriter, r *http.Request) {
	if u, p, _ := r.BasicAuth(); u != user || p != password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	access := []map[string]any{}
	for _, scope := range r.URL.Query()["scope"] {
		for _, one := range strings.Fields(scope) {
			parts := strings.Split(one, ":")
			if len(parts) == 3 {
				access = append(access, map[string]any{"type": parts[0], "name": parts[1],
					"actions": strings.Split(parts[2], ",")})
			}
		}
	}
	token, err := i.sign(map[string]any{
		"iss": "test-issuer", "sub": user, "aud": audience, "jti": rand.Text(), "access": access,
		"iat": time.Now().Unix(), "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	i.mu.Lock()
	i.all[token] = true
	i.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 3600})
}

func (i *issuer) sign(payload map[string]any) (string, error) {
	part := func(v any) string {
		raw, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	text := part(map[string]any{"alg": "ES256", "typ": "JWT",
		"x5c": []string{base64.StdEncoding.EncodeToString(i.cert)}}) + "." + part(payload)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		return "", err
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// needProgram skips the test if a program is missing; in CI, the test fails.
func needProgram(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	switch ci := os.Getenv("CI"); {
	case err == nil:
		return path
	case ci != "" && ci != "0" && ci != "false" && os.Geteuid() == 0:
		t.Fatalf("CI must not skip: %s is missing (.ci/peers builds it)", name)
	}
	t.Skipf("needs %s (.ci/peers builds it)", name)
	return ""
}

// start runs a server until the test ends and returns the first match in its output.
func start(t *testing.T, cmd *exec.Cmd, says *regexp.Regexp) string {
	t.Helper()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the signal is sent when the thread that started the process ends
		defer runtime.UnlockOSThread()
		started <- cmd.Start()
		<-t.Context().Done()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		w.Close()
	})
	found := make(chan string, 1)
	var said bytes.Buffer
	go func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if m := says.FindStringSubmatch(lines.Text()); m != nil {
				select {
				case found <- m[1]:
				default:
				}
			}
		}
		_, _ = io.Copy(io.Discard, r)
	}()
	select {
	case m := <-found:
		return m
	case <-time.After(30 * time.Second):
		t.Fatalf("%s did not start: %s", cmd, said.String())
	}
	return ""
}

func serveCrane(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(needProgram(t, "crane"), "registry", "serve", "--address", "127.0.0.1:0")
	return "127.0.0.1:" + start(t, cmd, regexp.MustCompile(`port (\d+)`))
}

// serveDistribution starts distribution's registry with its own authentication.
func (f *front) serveDistribution(t *testing.T) string {
	t.Helper()
	program := needProgram(t, "registry")
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	auth := ""
	switch f.auth {
	case authBasic:
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		auth = fmt.Sprintf("auth:\n  htpasswd:\n    realm: test\n    path: %s\n",
			write("htpasswd", []byte(user+":"+string(hash)+"\n")))
	case authToken:
		auth = fmt.Sprintf("auth:\n  token:\n    realm: %s/token\n    service: %s\n    issuer: test-issuer\n    "+
			"rootcertbundle: %s\n",
			f.URL, audience, write("issuer.pem", f.issuer.pem))
	}
	address := freeAddress(t)
	config := fmt.Sprintf("version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: %s\n  "+
		"delete:\n    enabled: true\nhttp:\n  addr: %s\n%s",
		filepath.Join(dir, "data"), address, auth)
	cmd := exec.Command(program, "serve", write("config.yml", []byte(config)))
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	start(t, cmd, regexp.MustCompile(`(listening on)`))
	return address
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// waits records the waits that a client requests, without waiting.
type waits struct {
	mu  sync.Mutex
	all []time.Duration
}

func (w *waits) wait(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, d)
	return context.Cause(ctx)
}

// Package fetch fetches URLs: git repositories, and files and archives over HTTP. The result is a layer of the store,
// so the cache measures and evicts it like any other layer.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/dial"
)

// Fetcher fetches each URL once.
type Fetcher struct {
	Store *cache.Store
	HTTP  *http.Client
	// Env is the environment of git, NAME=VALUE each.
	Env []string
	// Auth is the value of the Authorization header that git sends to Host over HTTPS, and to no other host.
	Auth, Host string
	// Guard, if not nil, makes all connections, also those of git. Program is the path of this program: see
	// dial.Helper.
	Guard   *dial.Guard
	Program string
	// Offline makes everything that is not in the store an error.
	Offline bool

	mu   sync.Mutex
	done map[string]*fetched
}

// fetched is the result for one repository at one reference, or for one URL.
type fetched struct {
	once sync.Once
	dir  string
	file string
	err  error
}

// Error reports a URL that could not be fetched.
type Error struct {
	URL string // without credentials
	Err error
}

func (e *Error) Error() string { return "fetch " + e.URL + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Fetch returns a directory with the content of a URL. The directory belongs to the store; the caller must not write to
// it. If the URL is a single file and not an archive, file is its name in dir. The error is an *Error.
func (f *Fetcher) Fetch(ctx context.Context, rawURL string) (dir, file string, err error) {
	ref, isGit, gitErr := dfgitutil.ParseGitRef(rawURL)
	isHTTP := strings.HasPrefix(rawURL, "http://") || strings.HasPrefix(rawURL, "https://")
	var sub string
	var got *fetched
	switch {
	case isGit && gitErr == nil:
		sub = ref.SubDir
		key := fmt.Sprintf("git %s %s %s %v", ref.Remote, ref.Ref, ref.Checksum, keepsGitDir(ref))
		got = f.once(key, func(got *fetched) { got.dir, got.err = f.git(ctx, ref) })
	case isGit && !isHTTP:
		return "", "", &Error{redact(rawURL), gitErr}
	case isHTTP:
		base, fragment, _ := strings.Cut(rawURL, "#")
		sub = strings.TrimPrefix(fragment, ":")
		got = f.once(base, func(got *fetched) { got.dir, got.file, got.err = f.http(ctx, base, "") })
	default:
		return "", "", &Error{redact(rawURL), errors.New("not a git or http URL")}
	}
	return got.below(rawURL, sub)
}

// FetchFile is like Fetch, for an HTTP URL whose content must have the given digest. If the store has that content, it
// makes no request.
func (f *Fetcher) FetchFile(ctx context.Context, rawURL string, content digest.Digest) (dir, file string, err error) {
	base, fragment, _ := strings.Cut(rawURL, "#")
	got := f.once(base+" "+content.String(), func(got *fetched) {
		got.dir, got.file, got.err = f.http(ctx, base, content)
	})
	return got.below(rawURL, strings.TrimPrefix(fragment, ":"))
}

// below returns the fetched directory, or the directory sub in it.
func (got *fetched) below(rawURL, sub string) (dir, file string, err error) {
	if got.err == nil && sub != "" {
		dir, err = below(got.dir, sub)
		if err != nil {
			return "", "", &Error{redact(rawURL), err}
		}
		return dir, "", nil
	}
	if got.err != nil {
		return "", "", &Error{redact(rawURL), got.err}
	}
	return got.dir, got.file, nil
}

// once returns the result for a key. The first call computes it with do; later calls wait for it.
func (f *Fetcher) once(key string, do func(*fetched)) *fetched {
	f.mu.Lock()
	if f.done == nil {
		f.done = map[string]*fetched{}
	}
	got := f.done[key]
	if got == nil {
		got = &fetched{}
		f.done[key] = got
	}
	f.mu.Unlock()
	got.once.Do(func() {
		do(got)
		got.err = f.disk(got.err)
	})
	return got
}

// disk turns an error that a full disk causes into a *cache.Error: the cache needs space, and the URL is not at fault.
func (f *Fetcher) disk(err error) error {
	var already *cache.Error
	if !cache.DiskFull(err) || errors.As(err, &already) {
		return err
	}
	return &cache.Error{Op: "write to", Path: f.Store.Dir(), Err: err}
}

// below returns the directory sub of dir with symbolic links resolved. A link that leads out of dir is an error.
func below(dir, sub string) (string, error) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(filepath.Join(root, filepath.FromSlash(sub)))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("directory %s does not exist", sub)
	}
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(root, real); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("directory %s leads out of the fetched files", sub)
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", sub)
	}
	return real, nil
}

// redact replaces the password in a URL by three asterisks.
func redact(rawURL string) string {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	if !ok {
		return rawURL
	}
	host, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndex(host, "@"); i >= 0 && strings.Contains(host[:i], ":") {
		user, _, _ := strings.Cut(host, ":")
		host = user + ":***" + host[i:]
	}
	return scheme + "://" + host + "/" + path
}

// Package fetch brings what URLs name to this machine: git repositories, and files and archives over HTTP. What it brings
// becomes a layer of the store, so that it is kept, measured and pruned like everything else.
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
)

// Fetcher fetches each URL once.
type Fetcher struct {
	Store *cache.Store
	HTTP  *http.Client
	// Env is what git sees of the environment, NAME=VALUE each.
	Env []string
	// Auth is the value of the Authorization header for git over HTTP with Host, and nowhere else.
	Auth, Host string
	// Offline refuses what is not in the store.
	Offline bool

	mu   sync.Mutex
	done map[string]*fetched
}

// fetched is one repository at one reference, or one URL.
type fetched struct {
	once sync.Once
	dir  string
	file string
	err  error
}

// Error says what could not be fetched.
type Error struct {
	URL string // without credentials
	Err error
}

func (e *Error) Error() string { return "fetch " + e.URL + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Fetch returns a directory that holds what a URL names. Nobody else writes to it, and it must not be written to. For a URL
// of one file that is no archive, file is the file's name in dir. The error is an *Error.
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
		return "", "", &Error{redact(rawURL), errors.New("neither git nor http")}
	}
	return got.below(rawURL, sub)
}

// FetchFile is Fetch of a URL over HTTP whose content must have the digest; what is in the store already is not asked for.
func (f *Fetcher) FetchFile(ctx context.Context, rawURL string, content digest.Digest) (dir, file string, err error) {
	base, fragment, _ := strings.Cut(rawURL, "#")
	got := f.once(base+" "+content.String(), func(got *fetched) { got.dir, got.file, got.err = f.http(ctx, base, content) })
	return got.below(rawURL, strings.TrimPrefix(fragment, ":"))
}

// below is what was fetched, or a directory of it.
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

// disk makes an error of a full disk a fault of the cache, which what is fetched is written to, and not of what a URL names.
func (f *Fetcher) disk(err error) error {
	var already *cache.Error
	if !cache.DiskFull(err) || errors.As(err, &already) {
		return err
	}
	return &cache.Error{Op: "write to", Path: f.Store.Dir(), Err: err}
}

// below is a directory below another, wherever links lead: never out of it.
func below(dir, sub string) (string, error) {
	root, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	real, err := filepath.EvalSymlinks(filepath.Join(root, filepath.FromSlash(sub)))
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("there is no directory %s in it", sub)
	}
	if err != nil {
		return "", err
	}
	if rel, err := filepath.Rel(root, real); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("the directory %s leads out of it", sub)
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return "", fmt.Errorf("%s is no directory", sub)
	}
	return real, nil
}

// redact takes a password out of a URL.
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

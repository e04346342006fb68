// Package fetch fetches URLs: git repositories, and files and archives over HTTP. The result is a layer of the store,
// so the cache measures and evicts it like any other layer.
package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/dial"
	"github.com/bakebuild/bake/planner"
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
	planner.Fetched
	file string // the name of the only file, if the URL is one and no archive
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
	got, sub := f.content(ctx, planner.Remote{URL: rawURL})
	if got.err != nil {
		return "", "", &Error{redact(rawURL), got.err}
	}
	if dir, err = got.below(sub); err != nil { // got is shared by all calls for the repository
		return "", "", &Error{redact(rawURL), err}
	}
	return dir, got.file, nil
}

// Context implements planner.Fetcher.
func (f *Fetcher) Context(ctx context.Context, r planner.Remote) (planner.Fetched, error) {
	got, sub := f.content(ctx, r)
	c, err := got.Fetched, got.err
	if err == nil {
		c.Dir, err = got.below(sub)
	}
	if err == nil && got.file != "" && got.file != planner.ContextFile {
		c.Dir, err = f.asContext(filepath.Join(got.Dir, got.file), got.Time)
	}
	if err != nil {
		return c, &Error{redact(r.URL), f.disk(err)}
	}
	return c, nil
}

// content fetches a URL. sub is the requested subdirectory of what it returns.
func (f *Fetcher) content(ctx context.Context, r planner.Remote) (got *fetched, sub string) {
	ref, isGit, gitErr := dfgitutil.ParseGitRef(r.URL)
	isHTTP := strings.HasPrefix(r.URL, "http://") || strings.HasPrefix(r.URL, "https://")
	switch {
	case isGit && gitErr == nil:
		repo := repository(ref)
		sub, repo.SubDir = repo.SubDir, ""
		repo.KeepGitDir = repo.KeepGitDir || r.KeepGitDir
		key := fmt.Sprintf("git %#v %s", repo, r.Commit)
		return f.once(r.URL, key, func(got *fetched) { got.err = f.git(ctx, repo, r.Commit, got) }), sub
	case isGit:
		return &fetched{err: gitErr}, ""
	case isHTTP:
		base, fragment, _ := strings.Cut(r.URL, "#")
		sub = strings.TrimPrefix(fragment, ":")
		key := fmt.Sprintf("%s %s %v", base, r.Content, r.Packed)
		r.URL = base
		return f.once(r.URL, key, func(got *fetched) { got.err = f.http(ctx, r, got) }), sub
	}
	return &fetched{err: cmp.Or(gitErr, errors.New("not a git or http URL"))}, ""
}

// git checks out a repository as a layer, at a commit or, without one, at its reference.
func (f *Fetcher) git(ctx context.Context, r Repository, commit string, got *fetched) error {
	if commit == "" {
		var err error
		if commit, err = f.checked(ctx, r); err != nil {
			return err
		}
	}
	id := r.layer(commit)
	if err := f.checkOutLayer(ctx, r, commit, id); err != nil {
		return err
	}
	dir, known, err := f.stored(id)
	if err == nil && dir == "" {
		err = f.Store.MissingLayer(id)
	}
	got.Dir, got.Time = dir, known.time
	return err
}

// below returns the fetched directory, or the directory sub in it.
func (got *fetched) below(sub string) (string, error) {
	if sub == "" {
		return got.Dir, nil
	}
	return below(got.Dir, sub)
}

// once returns the result for the key of a URL. The first call computes it with do; later calls wait for it.
func (f *Fetcher) once(rawURL, key string, do func(*fetched)) *fetched {
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
		if f.Guard != nil {
			f.Guard.Settle(rawURL)
		}
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
		return "", fmt.Errorf("directory %s: %w", sub, cause(err))
	}
	if rel, err := filepath.Rel(root, real); err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("directory %s leads out of the fetched files", sub)
	}
	if info, err := os.Stat(real); err != nil || !info.IsDir() {
		return "", fmt.Errorf("%s is not a directory", sub)
	}
	return real, nil
}

// cause strips the path from an error of a file operation: it is one of the cache.
func cause(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
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

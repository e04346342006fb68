package fetch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
)

// maxOutput is the number of bytes of git's output that are kept.
const maxOutput = 1 << 20

func keepsGitDir(ref *dfgitutil.GitRef) bool { return ref.KeepGitDir != nil && *ref.KeepGitDir }

// Repository is a git repository at a reference, or a directory of it.
type Repository struct {
	Remote string // URL
	Ref    string // branch, tag or commit; "" is the default branch
	SubDir string
	// Checksum is a prefix that the commit must have.
	Checksum                 string
	KeepGitDir, NoSubmodules bool
}

// Public returns the URL of a repository without the user and password of an http URL. Keys, entries and checkouts use
// it, so that none of them contains credentials.
func Public(remote string) string {
	scheme, user, rest := credentials(remote)
	if user == "" {
		return remote
	}
	return scheme + rest
}

// credentials splits an http URL into its scheme, the user and password before the @, and the rest.
func credentials(remote string) (scheme, user, rest string) {
	name, rest, ok := strings.Cut(remote, "://")
	if !ok || name != "http" && name != "https" {
		return "", "", remote
	}
	host, path, slash := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		user, host = host[:i], host[i+1:]
	}
	if slash {
		host += "/" + path
	}
	return name + "://", user, host
}

func (r Repository) git() *dfgitutil.GitRef {
	submodules := !r.NoSubmodules
	return &dfgitutil.GitRef{
		Remote: r.Remote, Ref: r.Ref, SubDir: r.SubDir, Checksum: r.Checksum,
		KeepGitDir: &r.KeepGitDir, Submodules: &submodules,
	}
}

// Commit returns the commit to which a reference points now. A reference that is a commit needs no request. The error
// is an *Error.
func (f *Fetcher) Commit(ctx context.Context, r Repository) (string, error) {
	commit, err := f.checked(ctx, r.git())
	if err != nil {
		return "", &Error{redact(r.Remote), err}
	}
	return commit, nil
}

// Checkout stores a commit, or a directory of it, as a layer and returns the layer's id. Modes are 0755 and 0644,
// whatever the umask. The error is an *Error.
func (f *Fetcher) Checkout(ctx context.Context, r Repository, commit string) (digest.Digest, error) {
	id := digest.FromString(fmt.Sprintf("git layer\x00%s\x00%s\x00%s\x00%v\x00%v",
		Public(r.Remote), commit, r.SubDir, r.KeepGitDir, r.NoSubmodules))
	if err := f.checkOutLayer(ctx, r, commit, id); err != nil {
		return "", &Error{redact(r.Remote), f.disk(err)}
	}
	return id, nil
}

func (f *Fetcher) checkOutLayer(ctx context.Context, r Repository, commit string, id digest.Digest) error {
	unlock, err := f.Store.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := f.Store.LayerDir(id); ok {
		return nil
	}
	whole, err := f.Store.NewLayer()
	if err != nil {
		return err
	}
	if err := f.checkOut(ctx, whole.FS, r.git(), commit, !r.NoSubmodules); err != nil {
		return errors.Join(err, whole.Discard())
	}
	draft := whole
	if r.SubDir != "" {
		if draft, err = f.Store.NewLayer(); err == nil {
			err = moveAll(whole.FS, r.SubDir, draft.FS)
		}
		if err = errors.Join(err, whole.Discard()); err != nil {
			return err
		}
	}
	if err := plainModes(draft.FS); err != nil {
		return errors.Join(err, draft.Discard())
	}
	_, err = f.keep(draft, id, Public(r.Remote)+" "+commit)
	return err
}

// moveAll moves the files of the directory sub of from to the directory to.
func moveAll(from, sub, to string) error {
	dir, err := below(from, sub)
	if err != nil {
		return err
	}
	all, err := os.ReadDir(dir)
	for _, e := range all {
		err = errors.Join(err, os.Rename(filepath.Join(dir, e.Name()), filepath.Join(to, e.Name())))
	}
	return err
}

// plainModes sets the modes of a checkout to those that git records, independent of the umask.
func plainModes(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if d.IsDir() || info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return os.Chmod(path, mode)
	})
}

// checked returns the commit of a reference, and an error if it does not match the checksum.
func (f *Fetcher) checked(ctx context.Context, ref *dfgitutil.GitRef) (string, error) {
	if strings.HasPrefix(ref.Remote, "-") || strings.HasPrefix(ref.Ref, "-") {
		return "", errors.New("a repository or reference must not start with a dash")
	}
	commit, err := f.commit(ctx, ref)
	if err != nil {
		return "", err
	}
	if ref.Checksum != "" && !strings.HasPrefix(commit, ref.Checksum) {
		return "", fmt.Errorf("%s is commit %s, not %s", cmp.Or(ref.Ref, "its default branch"), commit, ref.Checksum)
	}
	return commit, nil
}

// git checks out a repository as a layer, named by repository and commit, and returns its directory.
func (f *Fetcher) git(ctx context.Context, ref *dfgitutil.GitRef) (string, error) {
	commit, err := f.checked(ctx, ref)
	if err != nil {
		return "", err
	}
	submodules := ref.Submodules == nil || *ref.Submodules
	id := digest.FromString(fmt.Sprintf("git checkout\x00%s\x00%s\x00%v\x00%v",
		Public(ref.Remote), commit, keepsGitDir(ref), submodules))
	unlock, err := f.Store.Lock(ctx, id)
	if err != nil {
		return "", err
	}
	defer unlock()
	if dir, ok := f.Store.LayerDir(id); ok {
		return dir, nil
	}
	draft, err := f.Store.NewLayer()
	if err != nil {
		return "", err
	}
	if err := f.checkOut(ctx, draft.FS, ref, commit, submodules); err != nil {
		return "", errors.Join(err, draft.Discard())
	}
	return f.keep(draft, id, Public(ref.Remote)+" "+commit)
}

// keep commits a draft to the store, with an entry that keeps it, and returns the layer's directory.
func (f *Fetcher) keep(draft *cache.Draft, id digest.Digest, name string) (string, error) {
	meta, err := cache.MeasureLayer(draft.FS)
	if err == nil {
		err = draft.Commit(id, meta)
	} else {
		err = errors.Join(err, draft.Discard())
	}
	if err != nil {
		return "", err
	}
	entry := &cache.Entry{ID: id, Key: id, Name: name, Outputs: []cache.Output{{Parts: []cache.Part{{Layer: id}}}}}
	if err := f.Store.Put(entry); err != nil {
		return "", err
	}
	dir, ok := f.Store.LayerDir(id)
	if !ok {
		return "", errors.New("the fetched layer was removed from the cache; try again")
	}
	return dir, nil
}

// commit returns the commit to which a reference points now. Among equal names a tag precedes a branch, as in git.
func (f *Fetcher) commit(ctx context.Context, ref *dfgitutil.GitRef) (string, error) {
	if isCommit(ref.Ref) {
		return ref.Ref, nil
	}
	if f.Offline {
		return "", errOffline
	}
	name := ref.Ref
	if name == "" {
		name = "HEAD"
	}
	out, err := f.run(ctx, "", ref.Remote, "ls-remote", "--", Public(ref.Remote), name, name+"^{}")
	if err != nil {
		return "", err
	}
	best, rank := "", 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) != 2 || !isCommit(fields[0]) {
			continue
		}
		r := 0
		switch fields[1] {
		case name + "^{}", "refs/tags/" + name + "^{}":
			r = 5
		case name:
			r = 4
		case "refs/tags/" + name:
			r = 3
		case "refs/heads/" + name:
			r = 2
		}
		if r > rank {
			best, rank = fields[0], r
		}
	}
	if best == "" {
		return "", fmt.Errorf("repository has no branch or tag %s", name)
	}
	return best, nil
}

func isCommit(s string) bool {
	return regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`).MatchString(s)
}

// checkOut fetches one commit with its submodules into an empty directory.
func (f *Fetcher) checkOut(
	ctx context.Context, dir string, ref *dfgitutil.GitRef, commit string, submodules bool,
) error {
	if f.Offline {
		return errOffline
	}
	steps := [][]string{
		{"init", "--quiet"},
		{"remote", "add", "--", "origin", Public(ref.Remote)},
		{"fetch", "--quiet", "--depth=1", "--no-tags", "origin", commit},
	}
	for _, args := range steps[:2] {
		if _, err := f.run(ctx, dir, ref.Remote, args...); err != nil {
			return err
		}
	}
	if _, err := f.run(ctx, dir, ref.Remote, steps[2]...); err != nil {
		// A server may refuse to serve a commit by its hash. Then fetch all branches and tags.
		_, err2 := f.run(ctx, dir, ref.Remote, "fetch", "--quiet", "origin",
			"+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*")
		if err2 != nil {
			return err
		}
	}
	if _, err := f.run(ctx, dir, ref.Remote, "checkout", "--quiet", "--force", "--detach", commit); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, ".gitmodules")); err == nil && submodules {
		_, err := f.run(ctx, dir, ref.Remote, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1")
		if err != nil {
			return err
		}
	}
	if keepsGitDir(ref) {
		return nil
	}
	return removeGitDirs(dir)
}

// removeGitDirs removes .git, also in submodules.
func removeGitDirs(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != ".git" || path == dir {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// run runs git for a repository, without the user's configuration and without prompts. args must name the repository by
// its Public URL, since every user of the machine may read them.
func (f *Fetcher) run(ctx context.Context, dir, remote string, args ...string) ([]byte, error) {
	base := []string{
		"-c", "protocol.allow=never", "-c", "protocol.https.allow=always", "-c", "protocol.http.allow=always",
		"-c", "protocol.ssh.allow=always", "-c", "protocol.git.allow=always", "-c", "core.hooksPath=/dev/null",
		"-c", "core.autocrlf=false", "-c", "advice.detachedHead=false", "-c", "init.defaultBranch=main",
		"-c", "http.lowSpeedLimit=1", "-c", "http.lowSpeedTime=30", "-c", "transfer.fsckObjects=false",
	}
	cmd := exec.CommandContext(ctx, "git", append(base, args...)...)
	cmd.Dir = dir
	cmd.Env = f.gitEnv(remote)
	refused := func() error { return nil }
	if f.Guard != nil {
		guarded, err := f.Guard.Start()
		if err != nil {
			return nil, err
		}
		defer guarded.Close()
		cmd.Env, refused = guarded.GitEnv(cmd.Env, f.Program), guarded.Err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stdout, stderr limited
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// The parent-death signal is sent when the thread that started git ends. A locked thread runs only this call;
	// others end with goroutines such as the workers of the sandbox (TestGitSurvivesThreads).
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return nil, fmt.Errorf("git cannot be started: %w; install it", exec.ErrNotFound)
	}
	if err := refused(); err != nil {
		return nil, fmt.Errorf("git %s: %w", args[0], err)
	}
	text := strings.TrimSpace(stderr.String())
	if text == "" {
		text = err.Error()
	}
	if m := full.FindStringSubmatch(text); m != nil {
		return nil, fmt.Errorf("git %s: %s: %w", args[0], m[1], syscall.ENOSPC)
	}
	if f.Auth != "" && redirected.MatchString(text) {
		text += "; git follows no redirect with credentials, so use the URL to which " + f.Host + " redirects"
	}
	return nil, fmt.Errorf("git %s: %s", args[0], text)
}

// full matches git's message for a full disk. Messages about the server's disk have the prefix "remote: ".
var full = regexp.MustCompile(`(?im)^(?:fatal|error): (.*): (?:No space left on device|Disk quota exceeded)$`)

// redirected matches git's message for a redirect that it did not follow.
var redirected = regexp.MustCompile(`returned error: 30[1278]\b`)

// gitEnv returns the environment of git with the credentials for a repository.
//
// A repository is hostile: its submodules, and redirects of its server, name other hosts, and git would send them the
// credentials. So both kinds of credentials are limited to one scheme, host and port. The token of Auth is an extra
// header for https://Host/ only, without redirects, since git would repeat the header at the target of a redirect. The
// user and password of an http URL are added by an insteadOf rule for URLs that begin with that scheme and host; git
// gets the Public URL everywhere else. The invariant: credentials are in the environment of git only. As arguments,
// every user of the machine could read them. In the configuration of a checkout, they would become part of an image.
// TestCredentialsFollowNoRedirect shows that the target of a redirect gets none. TestAddGitPassword in cmd/bake shows
// that a submodule on the same host gets them, and that no stored file contains them.
func (f *Fetcher) gitEnv(remote string) []string {
	env := append(f.Env[:len(f.Env):len(f.Env)], "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_CONFIG_GLOBAL=/dev/null", "LC_ALL=C", "GIT_SSH_COMMAND=ssh -o BatchMode=yes")
	if f.Auth != "" {
		scope := "http.https://" + f.Host + "/"
		env = append(env, "GIT_CONFIG_COUNT=2",
			"GIT_CONFIG_KEY_0="+scope+".extraHeader", "GIT_CONFIG_VALUE_0=Authorization: "+f.Auth,
			"GIT_CONFIG_KEY_1="+scope+".followRedirects", "GIT_CONFIG_VALUE_1=false")
	}
	if scheme, user, rest := credentials(remote); user != "" {
		host, _, _ := strings.Cut(rest, "/")
		// Of git's configuration variables only this one is passed to the git of submodules. The option -c adds to it.
		rule := quote("url."+scheme+user+"@"+host+"/.insteadOf") + "=" + quote(scheme+host+"/")
		env = append(env, "GIT_CONFIG_PARAMETERS="+rule)
	}
	return env
}

// quote quotes a string as in GIT_CONFIG_PARAMETERS.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}

// limited is a buffer that keeps the first maxOutput bytes and discards the rest.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if rest := maxOutput - l.Len(); rest > 0 {
		l.Buffer.Write(p[:min(len(p), rest)])
	}
	return len(p), nil
}

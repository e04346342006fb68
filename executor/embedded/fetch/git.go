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
	"strings"
	"syscall"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor/cache"
)

// maxOutput bounds what is kept of git's output, in bytes.
const maxOutput = 1 << 20

func keepsGitDir(ref *dfgitutil.GitRef) bool { return ref.KeepGitDir != nil && *ref.KeepGitDir }

// Repository is a git repository at a reference, or a directory of it.
type Repository struct {
	Remote string // URL
	Ref    string // branch, tag or commit; "" is the default branch
	SubDir string
	// Checksum is what the commit's number must begin with.
	Checksum                 string
	KeepGitDir, NoSubmodules bool
}

// Public is the URL of a repository without the user and password that an http URL may have. This is what names it in keys, entries
// and checkouts, so that none of them holds credentials.
func Public(remote string) string {
	scheme, user, rest := credentials(remote)
	if user == "" {
		return remote
	}
	return scheme + rest
}

// credentials cuts an http URL into its scheme, the user and password before the @, and the rest.
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
		Remote: r.Remote, Ref: r.Ref, SubDir: r.SubDir, Checksum: r.Checksum, KeepGitDir: &r.KeepGitDir, Submodules: &submodules,
	}
}

// Commit is the commit that a reference stands for now; one that is a commit itself asks nobody. The error is an *Error.
func (f *Fetcher) Commit(ctx context.Context, r Repository) (string, error) {
	commit, err := f.checked(ctx, r.git())
	if err != nil {
		return "", &Error{redact(r.Remote), err}
	}
	return commit, nil
}

// Checkout makes a layer of a commit, or of a directory of it, and returns its id. Modes are 0755 and 0644, whatever the umask
// is. The error is an *Error.
func (f *Fetcher) Checkout(ctx context.Context, r Repository, commit string) (digest.Digest, error) {
	id := digest.FromString(fmt.Sprintf("git layer\x00%s\x00%s\x00%s\x00%v\x00%v", Public(r.Remote), commit, r.SubDir, r.KeepGitDir, r.NoSubmodules))
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

// moveAll moves what a directory below from holds.
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

// plainModes gives files of a checkout the modes that git knows.
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

// checked is the commit of a reference, which must be the one that its checksum names.
func (f *Fetcher) checked(ctx context.Context, ref *dfgitutil.GitRef) (string, error) {
	if strings.HasPrefix(ref.Remote, "-") || strings.HasPrefix(ref.Ref, "-") {
		return "", errors.New("a repository or reference does not start with a dash")
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

// git checks a repository out, as a layer named by repository and commit.
func (f *Fetcher) git(ctx context.Context, ref *dfgitutil.GitRef) (string, error) {
	commit, err := f.checked(ctx, ref)
	if err != nil {
		return "", err
	}
	submodules := ref.Submodules == nil || *ref.Submodules
	id := digest.FromString(fmt.Sprintf("git checkout\x00%s\x00%s\x00%v\x00%v", Public(ref.Remote), commit, keepsGitDir(ref), submodules))
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

// keep commits a draft and returns the layer's directory.
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
		return "", errors.New("what was fetched is gone from the cache again")
	}
	return dir, nil
}

// commit is the commit that a reference stands for now.
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
		return "", fmt.Errorf("the repository has no branch or tag %s", name)
	}
	return best, nil
}

func isCommit(s string) bool {
	return regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`).MatchString(s)
}

// checkOut fetches one commit with its submodules into an empty directory.
func (f *Fetcher) checkOut(ctx context.Context, dir string, ref *dfgitutil.GitRef, commit string, submodules bool) error {
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
		// A server may refuse to give a commit by its number; then everything is fetched.
		if _, err2 := f.run(ctx, dir, ref.Remote, "fetch", "--quiet", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"); err2 != nil {
			return err
		}
	}
	if _, err := f.run(ctx, dir, ref.Remote, "checkout", "--quiet", "--force", "--detach", commit); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, ".gitmodules")); err == nil && submodules {
		if _, err := f.run(ctx, dir, ref.Remote, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"); err != nil {
			return err
		}
	}
	if keepsGitDir(ref) {
		return nil
	}
	return removeGitDirs(dir)
}

// removeGitDirs takes away what git keeps for itself, in submodules too.
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

// run runs git about a repository, away from the user's configuration and without questions to anybody. Arguments name the
// repository by its Public URL.
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
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stdout, stderr limited
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	switch {
	case err == nil:
		return stdout.Bytes(), nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return nil, errors.New("git is not installed")
	}
	text := strings.TrimSpace(stderr.String())
	if text == "" {
		text = err.Error()
	}
	if m := full.FindStringSubmatch(text); m != nil {
		return nil, fmt.Errorf("git %s: %s: %w", args[0], m[1], syscall.ENOSPC)
	}
	if f.Auth != "" && redirected.MatchString(text) {
		text += "; with credentials no redirect is followed: name the address that " + f.Host + " sends this on to"
	}
	return nil, fmt.Errorf("git %s: %s", args[0], text)
}

// full is how git says that the disk is full; what the server says of its own disk stands behind "remote: ".
var full = regexp.MustCompile(`(?im)^(?:fatal|error): (.*): (?:No space left on device|Disk quota exceeded)$`)

// redirected is how git says that it was sent elsewhere and did not go.
var redirected = regexp.MustCompile(`returned error: 30[1278]\b`)

// gitEnv has what git may know of credentials, for the scheme, host and port that they are of: in the environment rather than
// among the arguments, which every user of the machine may read, or in the configuration of a checkout, which an image may hold.
func (f *Fetcher) gitEnv(remote string) []string {
	env := append(f.Env[:len(f.Env):len(f.Env)], "GIT_TERMINAL_PROMPT=0", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"LC_ALL=C", "GIT_SSH_COMMAND=ssh -o BatchMode=yes")
	if f.Auth != "" {
		// git sends such a header on to whatever host a redirect names.
		scope := "http.https://" + f.Host + "/"
		env = append(env, "GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0="+scope+".extraHeader", "GIT_CONFIG_VALUE_0=Authorization: "+f.Auth,
			"GIT_CONFIG_KEY_1="+scope+".followRedirects", "GIT_CONFIG_VALUE_1=false")
	}
	if scheme, user, rest := credentials(remote); user != "" {
		host, _, _ := strings.Cut(rest, "/")
		// Of all that configures git by the environment only this reaches the git of submodules; -c adds to it.
		env = append(env, "GIT_CONFIG_PARAMETERS="+quote("url."+scheme+user+"@"+host+"/.insteadOf")+"="+quote(scheme+host+"/"))
	}
	return env
}

// quote quotes as git does in GIT_CONFIG_PARAMETERS.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}

// limited keeps the first bytes of what is written to it.
type limited struct{ bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if rest := maxOutput - l.Len(); rest > 0 {
		l.Buffer.Write(p[:min(len(p), rest)])
	}
	return len(p), nil
}

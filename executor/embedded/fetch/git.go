package fetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	digest "github.com/opencontainers/go-digest"
)

// Repository is a git repository at a reference, or a directory of it.
type Repository struct {
	Remote string // URL
	Ref    string // branch, tag or commit; "" is the default branch
	SubDir string
	// Checksum is a prefix that the commit, or the object of an annotated tag, must have.
	Checksum string
	// ByCommit makes Checksum, then a whole hash, the commit, whatever Ref names on the server. Ref only names the
	// branch or tag of a checkout with KeepGitDir.
	ByCommit                 bool
	KeepGitDir, NoSubmodules bool
	// CheckoutTimes leaves the times of the files as git wrote them. Without it they have the time of the commit.
	CheckoutTimes bool
}

// repository returns the repository of a parsed URL.
func repository(ref *dfgitutil.GitRef) Repository {
	r := Repository{
		Remote: ref.Remote, Ref: ref.Ref, SubDir: ref.SubDir, Checksum: ref.Checksum, ByCommit: ref.FetchByCommit,
		KeepGitDir:    ref.KeepGitDir != nil && *ref.KeepGitDir,
		NoSubmodules:  ref.Submodules != nil && !*ref.Submodules,
		CheckoutTimes: ref.MTime == "checkout",
	}
	if ref.IndistinguishableFromLocal { // github.com/OWNER/REPOSITORY
		r.Remote = "https://" + r.Remote
	}
	return r
}

// target is what a reference names on a server.
type target struct {
	commit string
	tag    string // the object of an annotated tag, or ""
	ref    string // in full, such as refs/heads/main; "" if it is unknown
}

// Commit returns the commit to which a reference points now. A reference that is a commit needs no request. The error
// is an *Error.
func (f *Fetcher) Commit(ctx context.Context, r Repository) (string, error) {
	commit, err := f.checked(ctx, r)
	if err != nil {
		return "", &Error{redact(r.Remote), err}
	}
	return commit, nil
}

// Checkout stores a commit, or a directory of it, as a layer and returns the layer's id. Modes are 0755 and 0644,
// whatever the umask. The error is an *Error.
func (f *Fetcher) Checkout(ctx context.Context, r Repository, commit string) (digest.Digest, error) {
	id := r.layer(commit)
	if err := f.checkOutLayer(ctx, r, commit, id); err != nil {
		return "", &Error{redact(r.Remote), f.disk(err)}
	}
	return id, nil
}

// layer returns the id of the layer of a commit. With .git, the reference counts: the checkout has it as a branch or
// tag.
func (r Repository) layer(commit string) digest.Digest {
	ref := ""
	if r.KeepGitDir {
		ref = r.Ref
	}
	return digest.FromString(fmt.Sprintf("git files\x00%s\x00%s\x00%s\x00%v\x00%s\x00%v\x00%v",
		Public(r.Remote), commit, r.SubDir, r.KeepGitDir, ref, r.NoSubmodules, r.CheckoutTimes))
}

func (f *Fetcher) checkOutLayer(ctx context.Context, r Repository, commit string, id digest.Digest) error {
	unlock, err := f.Store.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer unlock()
	if f.Store.HasLayer(id) {
		return nil
	}
	whole, err := f.Store.NewLayer()
	if err != nil {
		return err
	}
	at, err := f.checkOut(ctx, whole.FS, r, commit)
	if err != nil {
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
	if err := normalize(draft.FS, at, !r.CheckoutTimes); err != nil {
		return errors.Join(err, draft.Discard())
	}
	_, err = f.keep(draft, id, stored{name: Public(r.Remote) + " " + commit, time: at})
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

// checked returns the commit of a reference, and an error if it does not match the checksum.
func (f *Fetcher) checked(ctx context.Context, r Repository) (string, error) {
	if strings.HasPrefix(r.Remote, "-") || strings.HasPrefix(r.Ref, "-") {
		return "", errors.New("a repository or reference must not start with a dash")
	}
	if strings.Trim(r.Checksum, "0123456789abcdefABCDEF") != "" {
		return "", fmt.Errorf("invalid commit %q: a commit is a hash of hexadecimal digits", r.Checksum)
	}
	t := target{commit: r.Ref}
	var err error
	switch {
	case isCommit(r.Ref):
	case r.ByCommit && !isCommit(r.Checksum):
		return "", errors.New("fetch-by-commit needs the whole hash of a commit: add commit=HASH")
	case r.ByCommit:
		return r.Checksum, nil
	default:
		if t, err = f.resolve(ctx, r); err != nil {
			return "", err
		}
	}
	if !strings.HasPrefix(t.commit, r.Checksum) && (t.tag == "" || !strings.HasPrefix(t.tag, r.Checksum)) {
		return "", fmt.Errorf("%s is commit %s, not %s", cmp.Or(r.Ref, "its default branch"), t.commit, r.Checksum)
	}
	return t.commit, nil
}

// resolve asks the server what a reference names. As in BuildKit, a reference below refs/ precedes a branch, and a
// branch precedes a tag.
func (f *Fetcher) resolve(ctx context.Context, r Repository) (target, error) {
	if f.Offline {
		return target{}, errOffline
	}
	args := []string{"ls-remote", "--", Public(r.Remote), r.Ref, r.Ref + "^{}"}
	if r.Ref == "" {
		args = []string{"ls-remote", "--symref", "--", Public(r.Remote), "HEAD"}
	}
	out, err := f.run(ctx, "", r.Remote, args...)
	if err != nil {
		return target{}, err
	}
	found := map[string]string{}
	head := ""
	for line := range strings.Lines(string(out)) {
		hash, name, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if to, ok := strings.CutPrefix(hash, "ref: "); ok {
			head = to
		} else if isCommit(hash) {
			found[name] = hash
		}
	}
	if r.Ref == "" {
		if found["HEAD"] == "" {
			return target{}, errors.New("repository has no default branch; name a branch, a tag or a commit")
		}
		return target{commit: found["HEAD"], ref: head}, nil
	}
	for _, name := range []string{
		"refs/" + strings.TrimPrefix(r.Ref, "refs/"),
		"refs/heads/" + strings.TrimPrefix(r.Ref, "refs/heads/"),
		"refs/tags/" + strings.TrimPrefix(r.Ref, "refs/tags/"),
		r.Ref, // HEAD
	} {
		hash := found[name]
		if peeled := found[name+"^{}"]; hash != "" && peeled != "" {
			return target{commit: peeled, tag: hash, ref: name}, nil
		}
		if hash != "" {
			return target{commit: hash, ref: name}, nil
		}
	}
	return target{}, fmt.Errorf("repository has no branch or tag %s", r.Ref)
}

// isCommit reports whether a reference is a whole hash, of SHA-1 or SHA-256.
func isCommit(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

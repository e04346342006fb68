package embedded

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/fetch"
	"github.com/bakebuild/bake/executor/keys"
)

// Checkouts fetches git repositories.
type Checkouts interface {
	// Commit resolves a reference to a commit. A full commit hash is resolved without the network.
	Commit(ctx context.Context, ref fetch.Repository) (string, error)
	// Checkout creates a layer from a commit, or from a directory of it, and returns its id.
	Checkout(ctx context.Context, ref fetch.Repository, commit string) (digest.Digest, error)
}

// gitStep checks out a repository for ADD. Its reference is resolved at every build.
type gitStep struct {
	n      *node
	ref    fetch.Repository
	commit string // the commit used in this run
}

// resolved implements resolver.
func (g *gitStep) resolved() string { return g.commit }

const insteadOfGit = "check the repository out and name the directory as a context"

// newGit parses the attributes of a git source.
func newGit(n *node, source *pb.SourceOp) (operation, error) {
	attrs := source.GetAttrs()
	for _, name := range []string{pb.AttrGitBundle, pb.AttrGitCheckoutBundle, pb.AttrGitSignatureVerifyPubKey} {
		if attrs[name] != "" {
			return nil, &UnsupportedError{What: "git sources with " + name, Instead: insteadOfGit}
		}
	}
	remote, fragment, _ := strings.Cut(strings.TrimPrefix(source.GetIdentifier(), "git://"), "#")
	if full := attrs[pb.AttrFullRemoteURL]; full != "" {
		remote = full
	}
	if n.b.engine.opts.Checkouts == nil {
		return nil, &UnsupportedError{What: "git sources here", Instead: insteadOfGit}
	}
	g := &gitStep{n: n, ref: fetch.Repository{
		Remote: remote, Checksum: attrs[pb.AttrGitChecksum], KeepGitDir: attrs[pb.AttrKeepGitDir] == "true",
		NoSubmodules: attrs[pb.AttrGitSkipSubmodules] == "true", ByCommit: attrs[pb.AttrGitFetchByCommit] == "true",
		CheckoutTimes: attrs[pb.AttrGitMTime] == "checkout",
	}}
	g.ref.Ref, g.ref.SubDir, _ = strings.Cut(fragment, ":")
	return g, nil
}

// parts returns the key parts: repository and commit.
func (g *gitStep) parts(commit string) keys.Parts {
	p := keys.NewParts("git")
	p.Add("repository", fetch.Public(g.ref.Remote))
	p.Add("commit", commit)
	p.Add("directory", g.ref.SubDir)
	p.Add("with .git, submodules", fmt.Sprint(g.ref.KeepGitDir, !g.ref.NoSubmodules))
	if g.ref.KeepGitDir { // .git has it as a branch or tag
		p.Add("reference", g.ref.Ref)
	}
	return p
}

// lookup finds an earlier checkout if the commit is known without a request.
func (g *gitStep) lookup(context.Context) (bool, error) {
	commit := g.ref.Ref
	if g.ref.ByCommit && !isCommit(commit) {
		commit = g.ref.Checksum
	}
	if !isCommit(commit) || g.n.forced() || !strings.HasPrefix(commit, g.ref.Checksum) {
		return false, nil
	}
	return g.find(commit)
}

// isCommit reports whether a reference is a full commit hash.
func isCommit(ref string) bool {
	return (len(ref) == 40 || len(ref) == 64) && strings.Trim(ref, "0123456789abcdef") == ""
}

func (g *gitStep) find(commit string) (bool, error) {
	g.commit = commit
	return g.n.serveStored(g.parts(commit).Key())
}

func (g *gitStep) prepare(context.Context) (bool, func(), error) { return false, func() {}, nil }

// run resolves the reference and fetches the commit unless the cache has it.
func (g *gitStep) run(ctx context.Context) error {
	g.n.because(executor.Cause{Kind: executor.CauseAsked})
	commit, err := g.n.b.engine.opts.Checkouts.Commit(ctx, g.ref)
	if err != nil {
		return err
	}
	if found, err := g.find(commit); err != nil || found && !g.n.forced() {
		return err
	}
	layer, err := g.n.b.engine.opts.Checkouts.Checkout(ctx, g.ref, commit)
	if err != nil {
		return err
	}
	p := g.parts(commit)
	e := &cache.Entry{
		ID: p.Key(), Key: p.Key(), Step: g.n.step.Digest, Name: g.n.step.Name, Inputs: p, Created: time.Now().UTC(),
		Outputs: []cache.Output{{Parts: []cache.Part{{Layer: layer}}}},
	}
	if err := g.n.b.store.Put(e); err != nil {
		return err
	}
	return g.n.serve(e, nil)
}

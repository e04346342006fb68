package planner

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
)

// SourceUse is a git repository at a reference, or an HTTP file, that targets use and a lock can pin. A source that is
// written with a commit or checksum needs no pin and has no SourceUse.
type SourceUse struct {
	Key    string // key in bake.lock: the URL, for git followed by #REF
	Git    bool
	Remote string // the URL, for git without #REF
	Ref    string // for git; "" is the default branch
	Pin    string // the commit or digest in the lock, or ""
	// Identifiers lists the identifiers of BuildKit's sources before pinning. Git has one for each directory. A context
	// that is downloaded before planning has none.
	Identifiers []string
	Targets     []string
	Places      []Location // the lines of Dockerfiles that name it; none for a context
}

// isCommit reports whether a git reference is a full commit hash.
func isCommit(ref string) bool {
	return (len(ref) == 40 || len(ref) == 64) && strings.Trim(ref, "0123456789abcdef") == ""
}

// gitKey returns the lock's key of a repository at a reference. A password is replaced.
func gitKey(remote, ref string) string {
	key := password.ReplaceAllString(remote, "${1}xxxxx@")
	if ref != "" {
		key += "#" + ref
	}
	return key
}

// gitSource is a reference to a git repository. identifier is that of BuildKit's source, or "".
type gitSource struct{ remote, ref, checksum, identifier string }

// pinGit returns the lock's commit for a git reference and records the use. It returns "" without an entry, and for a
// reference that is a commit or has a checksum.
func (b *bases) pinGit(target string, s gitSource, at []Location) (string, error) {
	remote, ref, checksum := s.remote, s.ref, s.checksum
	if isCommit(ref) {
		return "", nil
	}
	key := gitKey(remote, ref)
	commit := ""
	if b.lock != nil {
		commit = b.lock.Git[key]
	}
	switch {
	case checksum != "" && commit != "" && !strings.HasPrefix(commit, checksum):
		return "", &LockError{fmt.Sprintf("%s: commit %s differs from %s in %s; remove the commit here or the entry "+
			"in %s",
			key, checksum, commit, config.LockName, config.LockName)}
	case checksum != "":
		return "", nil // the checkout is compared with it
	case commit == "":
		if err := b.missing(key); err != nil {
			return "", err
		}
	}
	b.read(target, SourceUse{Key: key, Git: true, Remote: remote, Ref: ref, Pin: commit}, s.identifier, at)
	return commit, nil
}

// pinHTTP returns the lock's digest for a URL and records the use. It returns "" without an entry, and for a URL with a
// checksum.
func (b *bases) pinHTTP(target, url string, checksum digest.Digest, at []Location) (digest.Digest, error) {
	key := password.ReplaceAllString(url, "${1}xxxxx@")
	var d digest.Digest
	if b.lock != nil {
		d = b.lock.HTTP[key]
	}
	switch {
	case checksum != "" && d != "" && d != checksum:
		return "", &LockError{fmt.Sprintf("%s: checksum %s differs from %s in %s; remove the checksum here or the "+
			"entry in %s",
			key, checksum, d, config.LockName, config.LockName)}
	case checksum != "":
		return "", nil
	case d == "":
		if err := b.missing(key); err != nil {
			return "", err
		}
	}
	b.read(target, SourceUse{Key: key, Remote: url, Pin: d.String()}, url, at)
	return d, nil
}

// read records that a target uses a source.
func (b *bases) read(target string, use SourceUse, identifier string, at []Location) {
	b.mu.Lock()
	defer b.mu.Unlock()
	known, ok := b.sources[use.Key]
	if !ok {
		known = &use
		b.sources[use.Key] = known
	}
	known.Targets = addSorted(known.Targets, target)
	if identifier != "" {
		known.Identifiers = addSorted(known.Identifiers, identifier)
	}
	known.Places = addPlaces(known.Places, at)
}

// place records the lines of a target's Dockerfile that name a base. A reference that the lock pins and one written
// with the same digest become the same source, so callers try both references. Only the one that the target uses is
// recorded.
func (b *bases) place(target, ref string, at []Location) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if base, ok := b.used[ref]; ok && slices.Contains(base.Targets, target) {
		base.Places = addPlaces(base.Places, at)
	}
}

// addPlaces inserts locations into a sorted list unless they are present.
func addPlaces(list, more []Location) []Location {
	for _, l := range more {
		i, ok := slices.BinarySearchFunc(list, l, func(a, b Location) int {
			return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Start, b.Start), cmp.Compare(a.End, b.End))
		})
		if !ok {
			list = slices.Insert(list, i, l)
		}
	}
	return list
}

// sourceList returns the used sources, sorted by key.
func (b *bases) sourceList() []SourceUse {
	var list []SourceUse
	for _, key := range slices.Sorted(maps.Keys(b.sources)) {
		list = append(list, *b.sources[key])
	}
	return list
}

// pinSource applies the lock to a source of a target's graph and records its use. It reports whether anything changed.
func (in *inputs) pinSource(s *pb.SourceOp, at []Location) (bool, error) {
	b, target := in.client.bases, in.client.target
	scheme, rest, _ := strings.Cut(s.Identifier, "://")
	switch scheme {
	case "docker-image":
		return in.placeImage(s, rest, at), nil
	case "git":
		remote, fragment, _ := strings.Cut(rest, "#")
		ref, sub, hasSub := strings.Cut(fragment, ":")
		commit, err := b.pinGit(target, gitSource{cmp.Or(s.Attrs[pb.AttrFullRemoteURL], remote), ref,
			s.Attrs[pb.AttrGitChecksum], s.Identifier}, at)
		if err != nil || commit == "" {
			return false, err
		}
		if s.Attrs[pb.AttrKeepGitDir] == "true" { // the checkout has the reference as a branch or tag
			s.Attrs[pb.AttrGitChecksum], s.Attrs[pb.AttrGitFetchByCommit] = commit, "true"
			return true, nil
		}
		if s.Identifier = "git://" + remote + "#" + commit; hasSub {
			s.Identifier += ":" + sub
		}
		return true, nil
	case "http", "https":
		d, err := b.pinHTTP(target, s.Identifier, digest.Digest(s.Attrs[pb.AttrHTTPChecksum]), at)
		if err != nil || d == "" {
			return false, err
		}
		if s.Attrs == nil {
			s.Attrs = map[string]string{}
		}
		s.Attrs[pb.AttrHTTPChecksum] = d.String()
		return true, nil
	}
	return false, nil
}

// placeImage records the locations of an image and replaces its repository by the one that the lock names. It reports
// whether the source changed.
func (in *inputs) placeImage(s *pb.SourceOp, ref string, at []Location) bool {
	name, d, _ := strings.Cut(ref, "@")
	for _, key := range []string{ref, name} {
		if len(at) == 0 {
			in.client.bases.place(in.client.target, key, in.namedPlaces(key))
		}
		in.client.bases.place(in.client.target, key, at)
	}
	from := in.client.bases.from(name)
	if from == "" || d == "" {
		return false
	}
	s.Identifier = "docker-image://" + from + "@" + d
	return true
}

// RemoteURLs returns the URLs that the steps of the graph fetch, of git repositories and of files.
func (g *Graph) RemoteURLs() []string {
	var all []string
	for _, s := range g.Steps {
		source := s.Op.GetSource()
		scheme, _, _ := strings.Cut(source.GetIdentifier(), "://")
		switch scheme {
		case "git":
			all = append(all, gitRemote(source))
		case "http", "https":
			all = append(all, source.GetIdentifier())
		}
	}
	return all
}

// gitRemote returns the URL of the repository of a git source.
func gitRemote(s *pb.SourceOp) string {
	if full := s.Attrs[pb.AttrFullRemoteURL]; full != "" {
		return full
	}
	remote, _, _ := strings.Cut(strings.TrimPrefix(s.Identifier, "git://"), "#")
	return remote
}

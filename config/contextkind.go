package config

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
)

// ContextKind says where the files of a context are.
type ContextKind int

// The kinds of a context.
const (
	ContextDir     ContextKind = iota // a directory of this machine
	ContextURL                        // a git repository, an archive or a file
	ContextTarget                     // the image of another target
	ContextImage                      // an image of a registry or of the local store
	ContextLayout                     // an image of an OCI layout, a directory of this machine
	ContextStdin                      // standard input
	ContextUnknown                    // a reference of no known kind
)

// ContextSource is a parsed context. It is the only place that says which contexts are on this machine: the planner
// reads what this says, and Grants checks it.
type ContextSource struct {
	Kind ContextKind
	// Rest is the directory, the URL, the name of the target, or the reference.
	Rest string
	// Tag and Digest name an image of an OCI layout; both may be empty.
	Tag, Digest string
}

// MainContext parses the attribute context of a target.
func MainContext(value string) ContextSource {
	switch {
	case value == "-":
		return ContextSource{Kind: ContextStdin}
	case strings.HasPrefix(value, "cwd://"):
		return ContextSource{Kind: ContextDir, Rest: strings.TrimPrefix(value, "cwd://")}
	case IsRemote(value):
		return ContextSource{Kind: ContextURL, Rest: value}
	case looksLikeReference(value):
		return ContextSource{Kind: ContextUnknown, Rest: value}
	}
	return ContextSource{Kind: ContextDir, Rest: value}
}

// NamedContext parses a value of the attribute contexts.
func NamedContext(value string) ContextSource {
	if rest, ok := strings.CutPrefix(value, "target:"); ok {
		return ContextSource{Kind: ContextTarget, Rest: rest}
	}
	if rest, ok := strings.CutPrefix(value, "docker-image://"); ok {
		return ContextSource{Kind: ContextImage, Rest: rest}
	}
	if rest, ok := strings.CutPrefix(value, "oci-layout://"); ok {
		s := ContextSource{Kind: ContextLayout}
		s.Rest, s.Digest, _ = strings.Cut(rest, "@")
		if i := strings.LastIndex(s.Rest, ":"); i > strings.LastIndex(s.Rest, "/") {
			s.Rest, s.Tag = s.Rest[:i], s.Rest[i+1:]
		}
		return s
	}
	s := MainContext(value)
	if s.Kind == ContextStdin {
		return ContextSource{Kind: ContextDir, Rest: value}
	}
	return s
}

// looksLikeReference reports whether a value has a scheme, so that it is not meant as a path.
func looksLikeReference(value string) bool {
	return strings.Contains(value, "://") || strings.HasPrefix(value, "target:") ||
		strings.HasPrefix(value, "docker-image:")
}

// IsRemote reports whether an argument or a context is a URL rather than a name or a path.
func IsRemote(arg string) bool {
	if strings.HasPrefix(arg, "http://") || strings.HasPrefix(arg, "https://") {
		return true
	}
	return isGit(arg)
}

// IsFileURL reports whether an argument or a context is the URL of a file or an archive, and not of a git repository.
func IsFileURL(arg string) bool { return IsRemote(arg) && !isGit(arg) }

// isGit reports whether a text is the URL of a git repository, rather than a path.
func isGit(arg string) bool {
	ref, is, _ := dfgitutil.ParseGitRef(arg)
	return is && (ref == nil || !ref.IndistinguishableFromLocal)
}

// FileURLs returns the contexts of the project's targets that are URLs of files or archives.
func (p *Project) FileURLs() []string {
	var all []string
	for _, t := range p.Targets {
		for _, value := range append(slices.Collect(maps.Values(t.Contexts)), t.Context) {
			if IsFileURL(value) {
				all = append(all, value)
			}
		}
	}
	return all
}

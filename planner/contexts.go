package planner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
)

// Names of local sources while the front end runs; localDir.name takes their place afterwards.
const (
	mainContext    = "context"
	dockerfileDir  = "dockerfile"
	namedContextID = "named:"
)

// inputs is what one target's front end reads and links to.
type inputs struct {
	client  *client
	file    dockerfile
	scanned *scan
	aliases map[string][]string // names of contexts that are images, by the normalised reference
	locals  map[string]localDir // by the name of the local source while the front end runs
	layouts map[string]localDir // by store id
	linked  []*result           // of the targets that it links to
}

// isRemote says whether a context is a URL rather than a directory.
func isRemote(context string) bool {
	if strings.HasPrefix(context, "http://") || strings.HasPrefix(context, "https://") {
		return true
	}
	ref, isGit, _ := dfgitutil.ParseGitRef(context)
	return isGit && (ref == nil || !ref.IndistinguishableFromLocal)
}

// Fetcher brings what a URL names to this machine: a directory, and the name of the only file in it when the URL is of a file.
// It fetches each URL once.
type Fetcher interface {
	Fetch(ctx context.Context, url string) (dir, file string, err error)
	// FetchFile is Fetch of a URL over HTTP whose content must have the digest; what is here already is not asked for.
	FetchFile(ctx context.Context, url string, content digest.Digest) (dir, file string, err error)
}

// addMain sets up the main context and the Dockerfile.
func (p *plan) addMain(t *config.Target, in *inputs) (dockerfile, error) {
	if t.Context == "-" {
		return dockerfile{}, p.targetError(t, "context", errors.New("a context cannot be read from standard input: name a directory"))
	}
	var main localDir
	if p.isSource(t.Context) {
		in.client.opts.Opts[mainContext] = t.Context
	} else {
		var err error
		if main, err = p.contextDir(t, "context", "context", t.Context); err != nil {
			return dockerfile{}, err
		}
		in.locals[mainContext] = main
		in.client.files[mainContext] = dirFiles{main, &p.files}
	}
	d, err := p.loadDockerfile(t, main)
	if err != nil {
		return d, err
	}
	in.file = d
	in.client.opts.Opts["filename"] = d.name
	in.client.opts.Opts["dockerfilekey"] = dockerfileDir // read from here, also for a remote context
	in.client.files[dockerfileDir] = d.files()
	return d, nil
}

// isSource says whether a context stays a source of the graph.
func (p *plan) isSource(context string) bool { return p.opts.Fetcher == nil && isRemote(context) }

// contextDir is the directory of a context, which is fetched when it is a URL.
func (p *plan) contextDir(t *config.Target, attribute, what, written string) (localDir, error) {
	if !isRemote(written) {
		return p.findDir(t, attribute, what, written)
	}
	p.files.noteFetched()
	dir, file, err := p.fetchPinned(t, written)
	if err != nil {
		return localDir{}, p.targetError(t, attribute, err)
	}
	if file != "" && attribute == "context" && file != t.Dockerfile {
		return localDir{}, p.targetError(t, attribute, fmt.Errorf("%s is a file: a context is a directory, an archive or a repository", written))
	}
	return localDir{name: written, dir: dir, fetched: true}, nil
}

// addContexts sets up the named contexts.
func (p *plan) addContexts(t *config.Target, in *inputs) error {
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return p.targetError(t, "contexts", fmt.Errorf("context name %q: %w", name, err))
		}
		key := strings.TrimSuffix(reference.FamiliarString(named), ":latest")
		if err := p.addContext(t, in, key, t.Contexts[name]); err != nil {
			return err
		}
	}
	return nil
}

// addBases makes the names of base blocks known to a Dockerfile. A stage of that name is not hidden, nor is a context of the
// target, which is added later.
func (p *plan) addBases(in *inputs) {
	if len(p.project.Bases) == 0 {
		return
	}
	stages := in.scan().stages
	for name, base := range p.project.Bases {
		if !stages[strings.ToLower(name)] {
			in.addImageContext(strings.TrimSuffix(name, ":latest"), "docker-image://"+base.Image)
		}
	}
}

// addImageContext makes a name stand for an image.
func (in *inputs) addImageContext(name, value string) {
	in.client.opts.Opts["context:"+name] = value
	if named, err := reference.ParseNormalizedNamed(strings.TrimPrefix(value, "docker-image://")); err == nil {
		ref := reference.TagNameOnly(named).String()
		in.aliases[ref] = append(in.aliases[ref], name)
	}
}

func (p *plan) addContext(t *config.Target, in *inputs, name, value string) error {
	opts := in.client.opts.Opts
	link, isLink := strings.CutPrefix(value, targetPrefix)
	path, isLayout := strings.CutPrefix(value, "oci-layout://")
	switch {
	case isLink:
		return p.addLink(t, in, name, link)
	case isLayout:
		return p.addLayout(t, in, name, path)
	case strings.HasPrefix(value, "docker-image://"):
		in.addImageContext(name, value)
	case p.isSource(value):
		opts["context:"+name] = value
	default:
		dir, err := p.contextDir(t, "contexts", "context "+name, value)
		if err != nil {
			return err
		}
		id := namedContextID + dir.name
		opts["context:"+name] = "local:" + id
		in.locals[id] = dir
		in.client.files[id] = dirFiles{dir, &p.files}
	}
	return nil
}

// addLink gives the result of another target, with its image config, for each of its platforms.
func (p *plan) addLink(t *config.Target, in *inputs, name, link string) error {
	other := p.targets[link]
	<-other.done
	if other.err != nil {
		return &linkError{link}
	}
	var first baseConfig
	if err := json.Unmarshal(other.results[0].config, &first); err != nil {
		return err
	}
	if err := first.checkSize(); err != nil {
		return p.targetError(t, "contexts", fmt.Errorf("target %s cannot be a base: %w", link, err))
	}
	var have []string
	for _, r := range other.results {
		key := name
		if len(other.results) > 1 {
			id := platforms.FormatAll(r.platform)
			key += "::" + id
			have = append(have, id)
		}
		state, err := r.state()
		if err != nil {
			return err
		}
		meta, err := json.Marshal(map[string][]byte{"containerimage.config": r.config})
		if err != nil {
			return err
		}
		in.client.inputs[key] = state
		in.client.opts.Opts["context:"+key] = "input:" + key
		in.client.opts.Opts["input-metadata:"+key] = string(meta)
	}
	if have != nil {
		in.client.links[name] = strings.Join(have, ", ")
	}
	in.linked = append(in.linked, other.results...)
	return nil
}

// linkError says that a target was not planned because one that it links to has an error of its own.
type linkError struct{ link string }

func (e *linkError) Error() string { return "target " + e.link + " could not be planned" }

package planner

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"

	"github.com/bakebuild/bake/config"
)

// Names of local sources while the frontend runs. Afterwards localDir.name replaces them; see canonicalSource.
const (
	mainContext    = "context"
	dockerfileDir  = "dockerfile"
	namedContextID = "named:"
)

// inputs holds the files, contexts and linked targets of one target's frontend.
type inputs struct {
	client  *client
	file    dockerfile
	scanned *scan
	aliases map[string][]string // names of contexts that are images, by normalized reference
	locals  map[string]localDir // by the name of the local source while the frontend runs
	layouts map[string]localDir // by store id
	linked  []*result           // results of linked targets
}

// addMain sets up the main context and the Dockerfile.
func (p *plan) addMain(t *config.Target, in *inputs) (dockerfile, error) {
	source := config.MainContext(t.Context)
	var main localDir
	var err error
	switch {
	case source.Kind == config.ContextStdin:
		err = p.targetError(t, "context",
			errors.New("reading a context from standard input is not supported; set context to a directory"))
	case source.Kind == config.ContextUnknown:
		err = p.targetError(t, "context", errUnknownContext("context "+t.Context))
	case source.Kind == config.ContextURL && p.isSource():
		in.client.opts.Opts[mainContext] = t.Context
	case source.Kind == config.ContextURL:
		keep, _ := strconv.ParseBool(t.Args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"]) // as in BuildKit, no other value counts
		main, err = p.fetchContext(t, "context", Remote{URL: t.Context, KeepGitDir: keep})
	default:
		main, err = p.findDir(t, "context", "context", source.Rest)
	}
	if err != nil {
		return dockerfile{}, err
	}
	if main.dir != "" {
		in.locals[mainContext] = main
		in.client.files[mainContext] = p.ignoreFiles(main)
	}
	d, err := p.loadDockerfile(t, main)
	if err != nil {
		return d, err
	}
	in.file = d
	in.client.opts.Opts["filename"] = d.name
	in.client.opts.Opts["dockerfilekey"] = dockerfileDir // also for a remote context
	in.client.files[dockerfileDir] = d.files()
	return d, nil
}

// isSource reports whether contexts that are URLs stay sources of the graph instead of being downloaded.
func (p *plan) isSource() bool { return p.opts.Fetcher == nil }

// addContexts sets up the named contexts.
func (p *plan) addContexts(t *config.Target, in *inputs) error {
	for _, name := range slices.Sorted(maps.Keys(t.Contexts)) {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return p.targetError(t, "contexts", fmt.Errorf("invalid context name %q: %w", name, err))
		}
		key := strings.TrimSuffix(reference.FamiliarString(named), ":latest")
		if err := p.addContext(t, in, key, t.Contexts[name]); err != nil {
			return err
		}
	}
	return nil
}

// addBases adds the base blocks as named contexts. A stage of the same name takes precedence, and so does a context of
// the target, which is added later and overwrites the base.
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

// addImageContext adds an image as a named context.
func (in *inputs) addImageContext(name, value string) {
	in.client.opts.Opts["context:"+name] = value
	if named, err := reference.ParseNormalizedNamed(strings.TrimPrefix(value, "docker-image://")); err == nil {
		ref := reference.TagNameOnly(named).String()
		in.aliases[ref] = append(in.aliases[ref], name)
	}
}

// addContext adds one named context of a target.
func (p *plan) addContext(t *config.Target, in *inputs, name, value string) error {
	opts := in.client.opts.Opts
	source := config.NamedContext(value)
	var dir localDir
	var err error
	switch source.Kind {
	case config.ContextTarget:
		return p.addLink(t, in, name, source.Rest)
	case config.ContextLayout:
		return p.addLayout(t, in, name, source)
	case config.ContextImage:
		in.addImageContext(name, value)
		return nil
	case config.ContextUnknown, config.ContextStdin:
		err = p.targetError(t, "contexts", errUnknownContext("context "+name+" = "+value))
	case config.ContextURL:
		if p.isSource() {
			opts["context:"+name] = value
			return nil
		}
		p.addRemote(t, in, name, value)
		return nil
	case config.ContextDir:
		dir, err = p.findDir(t, "contexts", "context "+name, source.Rest)
	}
	if err != nil {
		return err
	}
	id := namedContextID + dir.name
	opts["context:"+name] = "local:" + id
	in.locals[id] = dir
	in.client.files[id] = p.ignoreFiles(dir)
	return nil
}

// errUnknownContext returns the error for a context with an unknown scheme.
func errUnknownContext(what string) error {
	return fmt.Errorf("%s is of no known kind; use a path, a URL of a git repository or an archive, or, in contexts, "+
		"target:NAME, docker-image://REF or oci-layout://DIR", what)
}

// addLink adds the results of another target as named contexts, one per platform, with their image configs. It waits
// until that target is planned.
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
		return p.targetError(t, "contexts", fmt.Errorf("target %s cannot be used as a base: %w", link, err))
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

// linkError reports that a target was not planned because a linked target failed. It is never shown: the error of the
// linked target is.
type linkError struct{ link string }

func (e *linkError) Error() string { return "planning the linked target " + e.link + " failed" }

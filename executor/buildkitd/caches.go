package buildkitd

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/ociindex"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// caches are the remote caches that daemons import and export for the targets of a run, as options of BuildKit's
// client.
type caches struct {
	dir     string // base of relative paths
	imports map[string][]gateway.CacheOptionsEntry
	exports map[string][]client.CacheOptionsEntry
	inline  map[string]bool          // targets whose images contain their cache
	stores  map[string]content.Store // of type=local, by the name that a daemon requests
	notes   []string                 // for the user
}

// caches reads cache-from and cache-to of all targets. As in BuildKit's clients, the environment completes them. A
// local cache that does not exist yet is not imported.
func (e *Engine) caches(g *planner.Graph, dir string) (*caches, error) {
	c := &caches{
		dir:     dir,
		imports: map[string][]gateway.CacheOptionsEntry{}, exports: map[string][]client.CacheOptionsEntry{},
		inline: map[string]bool{}, stores: map[string]content.Store{},
	}
	done := map[string]bool{}
	for _, image := range g.Images {
		t := image.Target
		if done[t] {
			continue
		}
		done[t] = true
		for _, a := range e.opts.CacheFrom[t] {
			if err := c.addImport(t, e.complete(a)); err != nil {
				return nil, fmt.Errorf("target %s: cache-from: %w", t, err)
			}
		}
		for _, a := range e.opts.CacheTo[t] {
			if err := c.addExport(t, e.complete(a)); err != nil {
				return nil, fmt.Errorf("target %s: cache-to: %w", t, err)
			}
		}
	}
	return c, nil
}

// CacheError reports an invalid cache-from or cache-to.
type CacheError struct{ Reason string }

// Error implements error.
func (e *CacheError) Error() string { return e.Reason }

func (c *caches) addImport(target string, a config.Attrs) error {
	kind, attrs := a["type"], without(a, "type")
	switch {
	case !isCache(kind) || kind == "inline":
		return &CacheError{fmt.Sprintf("unknown type %q; use registry, local, gha, s3 or azblob", kind)}
	case kind == "gha" && !reachable(attrs):
		return nil // outside a GitHub workflow
	case kind == "local":
		ok, err := c.localImport(attrs)
		if err != nil || !ok {
			return err
		}
	case kind == "registry" && attrs["ref"] == "":
		return &CacheError{"type=registry needs ref=IMAGE"}
	}
	c.imports[target] = append(c.imports[target], gateway.CacheOptionsEntry{Type: kind, Attrs: attrs})
	return nil
}

// localImport looks up a cache in a directory, and lets the session serve it. It reports whether there is one.
func (c *caches) localImport(attrs map[string]string) (bool, error) {
	if attrs["src"] == "" {
		return false, &CacheError{"type=local needs src=DIRECTORY"}
	}
	dir := c.path(attrs, "src")
	if attrs["digest"] == "" {
		tag := attrs["tag"]
		if tag == "" {
			tag = "latest"
		}
		desc, err := ociindex.NewStoreIndex(dir).Get(tag)
		if err != nil || desc == nil {
			c.notes = append(c.notes, fmt.Sprintf("cache-from %s: no cache yet", dir))
			return false, nil
		}
		attrs["digest"] = desc.Digest.String()
	}
	if c.stores["local:"+dir] == nil {
		c.stores["local:"+dir] = newLayoutStore(dir)
	}
	return true, nil
}

func (c *caches) addExport(target string, a config.Attrs) error {
	kind, attrs := a["type"], without(a, "type")
	switch {
	case !isCache(kind):
		return &CacheError{fmt.Sprintf("unknown type %q; use registry, inline, local, gha, s3 or azblob", kind)}
	case kind == "gha" && !reachable(attrs):
		return nil
	case kind == "inline":
		c.inline[target] = true
	case kind == "registry" && attrs["ref"] == "":
		return &CacheError{"type=registry needs ref=IMAGE"}
	case kind == "local":
		if err := c.localExport(attrs); err != nil {
			return err
		}
	}
	entry := client.CacheOptionsEntry{Type: kind, Attrs: attrs}
	same := func(e client.CacheOptionsEntry) bool { return e.Type == kind && maps.Equal(e.Attrs, attrs) }
	if !slices.ContainsFunc(c.exports[target], same) {
		c.exports[target] = append(c.exports[target], entry)
	}
	return nil
}

// localExport lets the session write a cache to a directory; BuildKit's client writes the index.
func (c *caches) localExport(attrs map[string]string) error {
	if attrs["dest"] == "" {
		return &CacheError{"type=local needs dest=DIRECTORY"}
	}
	dir := c.path(attrs, "dest")
	store, err := contentlocal.NewStore(dir)
	if err != nil {
		return fmt.Errorf("create %s: %w", dir, err)
	}
	c.stores["local:"+dir] = store
	return nil
}

// path makes an attribute an absolute path and returns it.
func (c *caches) path(attrs map[string]string, key string) string {
	if !filepath.IsAbs(attrs[key]) {
		attrs[key] = filepath.Join(c.dir, attrs[key])
	}
	return attrs[key]
}

func isCache(kind string) bool {
	return slices.Contains([]string{"registry", "inline", "local", "gha", "s3", "azblob"}, kind)
}

func without(a config.Attrs, key string) map[string]string {
	attrs := maps.Clone(map[string]string(a))
	delete(attrs, key)
	return attrs
}

// reachable reports whether the attributes name a GitHub Actions cache service and a token for it.
func reachable(attrs map[string]string) bool {
	return attrs["token"] != "" && (attrs["url"] != "" || attrs["url_v2"] != "")
}

// complete adds the address and credentials of a cache from the environment, where the project does not give them.
func (e *Engine) complete(a config.Attrs) config.Attrs {
	out := maps.Clone(a)
	switch a["type"] {
	case "gha":
		if out["version"] == "" && e.newService() {
			out["version"] = "2"
		}
		if out["version"] == "2" {
			e.fill(out, "url_v2", "ACTIONS_RESULTS_URL")
		}
		e.fill(out, "url", "ACTIONS_CACHE_URL")
		e.fill(out, "url", "ACTIONS_RESULTS_URL")
		e.fill(out, "token", "ACTIONS_RUNTIME_TOKEN")
	case "s3":
		e.fill(out, "region", "AWS_REGION")
		e.fill(out, "bucket", "AWS_BUCKET")
		if a["access_key_id"] == "" && a["secret_access_key"] == "" {
			e.fill(out, "access_key_id", "AWS_ACCESS_KEY_ID")
			e.fill(out, "secret_access_key", "AWS_SECRET_ACCESS_KEY")
			e.fill(out, "session_token", "AWS_SESSION_TOKEN")
		}
	}
	return out
}

// fill sets an empty attribute to the value of a variable.
func (e *Engine) fill(a config.Attrs, key, variable string) {
	if value, ok := e.opts.Env(variable); ok && value != "" && a[key] == "" {
		a[key] = value
	}
}

// newService reports whether the GitHub workflow has version 2 of the cache service.
func (e *Engine) newService() bool {
	value, _ := e.opts.Env("ACTIONS_CACHE_SERVICE_V2")
	on, err := strconv.ParseBool(value)
	return err == nil && on
}

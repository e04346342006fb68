package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/images"
	"github.com/bakebuild/bake/executor/registry"
)

// projectOptions are the flags that select project files, override their values, and name targets.
type projectOptions struct {
	files    []string
	set      []string
	vars     []string
	targets  []string
	envFiles []string
	allow    []string    // the values of --allow
	view     config.View // nil reads the disk
}

func (o *projectOptions) addFlags(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.files, "file", "f", nil, "project file; repeat to merge several "+
		"(default bake.hcl, bake.yaml or bake.json, else compose and docker-bake files)")
	f.StringArrayVar(&o.set, "set", nil, "override an attribute: TARGET.KEY=VALUE")
	f.StringArrayVar(&o.envFiles, "env-file", nil,
		"file of NAME=VALUE lines, with lower precedence than the environment (default .env for compose files)")
	f.StringArrayVar(&o.vars, "var", nil, "set a variable: NAME=VALUE")
}

// splitURLs splits arguments into the URLs of a definition and of its context, at most two, and names.
func splitURLs(args []string) (urls, names []string) {
	n := 0
	for n < min(len(args), 2) && config.IsRemote(args[n]) {
		n++
	}
	return args[:n], args[n:]
}

// loadOptions returns the options for package config. It opens the definition if the first target is a URL.
func (a *app) loadOptions(ctx context.Context, o projectOptions) (config.Options, error) {
	dir, err := a.workDir()
	if err != nil {
		return config.Options{}, err
	}
	grants, err := config.ParseGrants(o.allow)
	if err != nil {
		return config.Options{}, usagef("%w", err)
	}
	var definition *config.Definition
	urls, names := splitURLs(o.targets)
	if len(urls) > 0 {
		if definition, err = a.definition(ctx, urls[0], strings.Join(urls[1:], ""), grants); err != nil {
			return config.Options{}, err
		}
	}
	return config.Options{
		Definition: definition, Dir: dir, Files: o.files, Set: o.set, Vars: o.vars, Targets: names, Env: a.environ,
		EnvFiles: o.envFiles, Stdin: a.stdin, View: o.view, Commands: a.similar, Grants: grants,
	}, err
}

// loadProject evaluates the project and prints its warnings.
func (a *app) loadProject(ctx context.Context, o projectOptions) (*config.Project, error) {
	opts, err := a.loadOptions(ctx, o)
	if err != nil {
		return nil, err
	}
	release := a.logs.hold()
	p, warnings, err := config.Load(ctx, opts)
	release(err == nil)
	if err == nil {
		err = a.enterForURLs(ctx, p.FileURLs()...)
	}
	if err != nil {
		return nil, err
	}
	for _, w := range warnings {
		place := ""
		if w.Range.File != "" {
			place = fmt.Sprintf("%s:%d:%d: ", w.Range.File, w.Range.Line, w.Range.Col)
		}
		fmt.Fprintf(a.stderr, "warning: %s%s\n", place, w.Message)
	}
	a.project = p
	return p, a.useRegistries(p)
}

// useRegistries keeps the registry blocks of the project. Those of a remote project are ignored: its author must not
// decide where and how the credentials and images of this machine are sent.
func (a *app) useRegistries(p *config.Project) error {
	if a.fetcher != nil && len(p.Registries) > 0 {
		a.note("the registry blocks of a remote project are ignored; configure registries in registries.conf")
		return nil
	}
	var err error
	if a.registries, err = registry.FromBlocks(p.Registries, p.Dir); err != nil {
		return usagef("%w", err)
	}
	return nil
}

// checkGrants returns an error if a project needs more access to this machine than the user allows.
// BUILDX_BAKE_ENTITLEMENTS_FS=0 allows access to all files, BAKE_ALLOW_REMOTE_FS_ACCESS=1 allows it to remote projects.
func (a *app) checkGrants(p *config.Project, allow []string) error {
	if err := a.checkInsecure(p); err != nil {
		return err
	}
	grants, err := config.ParseGrants(allow)
	if err != nil {
		return usagef("%w", err)
	}
	files := true
	if v := a.env("BAKE_ALLOW_REMOTE_FS_ACCESS"); v != "" && a.fetcher != nil {
		allowed, err := strconv.ParseBool(v)
		if err != nil {
			return usagef("BAKE_ALLOW_REMOTE_FS_ACCESS=%s: expected 0 or 1", v)
		}
		files = !allowed
	}
	if v := a.env("BUILDX_BAKE_ENTITLEMENTS_FS"); v != "" {
		if files, err = strconv.ParseBool(v); err != nil {
			return usagef("BUILDX_BAKE_ENTITLEMENTS_FS=%s: expected 0 or 1", v)
		}
	}
	missing, err := grants.Missing(p, files)
	if err != nil {
		return usagef("%w", err)
	}
	if len(missing) == 0 {
		return nil
	}
	return usagef("%s", deniedText(p.Dir, missing))
}

// checkInsecure returns an error if a remote definition pushes without verified TLS: its author must not decide how the
// credentials of this machine are sent.
func (a *app) checkInsecure(p *config.Project) error {
	if a.fetcher == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(p.Targets)) {
		for _, o := range p.Targets[name].Outputs {
			if insecure, _ := strconv.ParseBool(o["registry.insecure"]); insecure {
				return usagef("target %s: output: a remote definition cannot set registry.insecure; configure the "+
					"registry in registries.conf", name)
			}
		}
	}
	return nil
}

// deniedText describes the access that a project in dir lacks, with the flags that grant it.
func deniedText(dir string, missing []string) string {
	var to, files, flags []string
	for _, m := range missing {
		if path, ok := strings.CutPrefix(m, "fs."); ok {
			_, path, _ = strings.Cut(path, "=")
			if !slices.Contains(files, path) {
				files = append(files, path)
			}
		} else {
			to = append(to, m)
		}
		flags = append(flags, "--allow "+shellQuoted(m))
	}
	if len(files) > 0 {
		to = append(to, "files outside "+dir+": "+strings.Join(files, ", "))
	}
	return "access denied to " + strings.Join(to, ", and to ") + "; to permit it, add " + strings.Join(flags, " ")
}

// shellQuoted returns an argument as a shell reads it.
func shellQuoted(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("_-./=:,@+%", r)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

// printProject prints the evaluated targets.
func (a *app) printProject(p *config.Project) error {
	raw, err := config.Print(p)
	if err != nil {
		return fmt.Errorf("print the project: %w", err)
	}
	_, err = a.stdout.Write(raw)
	return err
}

// noteLatest notes the requested image names that have no tag.
func (a *app) noteLatest(p *config.Project) {
	for _, name := range p.Requested {
		for _, tag := range p.Targets[name].Tags {
			if images.IsNameOnly(tag) {
				a.note("%s has no tag; using %s:latest, which moves with every build", tag, tag)
			}
		}
	}
}

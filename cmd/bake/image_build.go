package main

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
)

// imageBuildOptions are the flags of `bake image build`; they mean the same as in `docker build`.
type imageBuildOptions struct {
	run       runOptions
	tags      []string
	file      string
	args      []string
	labels    []string
	secrets   []string
	contexts  []string
	outputs   []string
	cacheFrom []string
	cacheTo   []string
	platforms []string
	stage     string
	context   string
}

func newImageBuildCommand(a *app) *cobra.Command {
	var o imageBuildOptions
	cmd := &cobra.Command{
		Use:   "build [-t NAME] [-f FILE] PATH",
		Short: "Build one Dockerfile, without a project file",
		Example: "  bake image build -t hello .\n" +
			"  bake image build -t registry.example.com/hello:1.0 --platform linux/amd64,linux/arm64 --push .",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.context = args[0]
			return a.imageBuild(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.tags, "tag", "t", nil, "name of the image: NAME[:TAG]")
	f.StringVarP(&o.file, "file", "f", "", "path of the Dockerfile (default PATH/Dockerfile)")
	f.StringArrayVar(&o.args, "build-arg", nil, "build argument: NAME=VALUE, or NAME for the environment's value")
	f.StringArrayVar(&o.labels, "label", nil, "label of the image: NAME=VALUE")
	f.StringArrayVar(&o.secrets, "secret", nil,
		"secret for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=VARIABLE")
	f.StringArrayVar(&o.contexts, "build-context", nil,
		"named context: NAME=VALUE, where VALUE is a path, a URL, docker-image://REF or oci-layout://DIR")
	f.StringArrayVarP(&o.outputs, "output", "o", nil, "output destination, such as type=oci,dest=FILE")
	f.StringArrayVar(&o.cacheFrom, "cache-from", nil,
		"remote cache to import: NAME in a registry, or type=local,src=DIR")
	f.StringArrayVar(&o.cacheTo, "cache-to", nil,
		"remote cache to export: type=registry,ref=NAME or type=local,dest=DIR; mode=max exports all steps")
	f.StringSliceVar(&o.platforms, "platform", nil, "platforms to build for, such as linux/arm64")
	f.StringVar(&o.stage, "target", "", "stage of the Dockerfile to build")
	o.run.addFlags(f)
	return cmd
}

// imageBuild builds a project of one target.
func (a *app) imageBuild(ctx context.Context, o imageBuildOptions) error {
	if err := a.guardImage(ctx, o); err != nil {
		return err
	}
	p, err := a.imageProject(ctx, o)
	if err != nil {
		return err
	}
	if err := a.checkRego(p); err != nil {
		return err
	}
	return a.buildProject(ctx, p, o.run)
}

// guardImage limits what a Dockerfile from a URL can reach, as for a remote project.
func (a *app) guardImage(ctx context.Context, o imageBuildOptions) error {
	if config.MainContext(o.context).Kind != config.ContextURL || o.file != "" {
		return nil
	}
	grants, err := config.ParseGrants(o.run.allow)
	if err != nil {
		return usagef("%w", err)
	}
	urls := []string{o.context}
	for _, named := range o.contexts {
		if _, value, _ := strings.Cut(named, "="); config.NamedContext(value).Kind == config.ContextURL {
			urls = append(urls, value)
		}
	}
	if err := a.fetchGuarded(ctx, grants, urls...); err != nil {
		return err
	}
	return a.settleContexts(ctx, urls[1:]...)
}

// imageProject returns the project that the flags describe. It passes them through the configuration language, so that
// flags and attributes accept the same values.
func (a *app) imageProject(ctx context.Context, o imageBuildOptions) (*config.Project, error) {
	dir, err := a.workDir()
	if err != nil {
		return nil, err
	}
	if o.context == "-" {
		return nil, usagef("a context from standard input is not supported; use a directory")
	}
	for _, secret := range o.secrets {
		if secret != "" && !strings.Contains(secret, "=") {
			return nil, usagef("--secret %s: expected id=ID,src=FILE or id=ID,env=VARIABLE", secret)
		}
	}
	const name = "image"
	set := o.run.overrides()
	add := func(key, value string) { set = append(set, name+"."+key+"="+value) }
	add("context", o.context)
	if o.file != "" {
		file := o.file
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		add("dockerfile", file)
	}
	if o.stage != "" {
		add("target", o.stage)
	}
	for key, values := range map[string][]string{
		"tags": o.tags, "secret": o.secrets, "output": o.outputs, "platforms": o.platforms,
		"cache-from": o.cacheFrom, "cache-to": o.cacheTo,
	} {
		for _, v := range values {
			add(key, v)
		}
	}
	for key, values := range map[string][]string{"args": o.args, "labels": o.labels, "contexts": o.contexts} {
		for _, v := range values {
			if !strings.Contains(v, "=") && key != "args" {
				return nil, usagef("%s %q: expected NAME=VALUE", key, v)
			}
			set = append(set, name+"."+key+"."+v)
		}
	}
	p, _, err := config.Load(ctx, config.Options{
		Dir: dir, Files: []string{"-"}, Set: set, Targets: []string{name}, Env: a.environ,
		Stdin: strings.NewReader(`target "` + name + `" {}`),
	})
	a.project = p
	return p, err
}

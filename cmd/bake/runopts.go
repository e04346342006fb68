package main

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/google/renameio/v2"
	"github.com/spf13/pflag"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/terminal"
	"github.com/bakebuild/bake/planner"
	"github.com/bakebuild/bake/planner/pins"
)

// runOptions are the flags that say how a graph runs, the same for every command that builds.
type runOptions struct {
	engine     []string
	progress   string
	metadata   string
	trace      string
	explain    bool
	jobs       jobs
	noCache    bool
	verify     bool
	pull       bool
	push       bool
	load       bool
	allow      []string
	sbom       string
	provenance string
	policy     []string
	pins       pins.Lock
	debugShell bool
	terminal   *terminal.Terminal // of --debug-shell
}

func (o *runOptions) addFlags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.engine, "engine", nil, "address of a BuildKit daemon that builds instead of this process, such as tcp://HOST:1234; may be repeated")
	f.BoolVar(&o.debugShell, "debug-shell", false, "when a command fails, open a shell in its root with all that it had")
	f.StringVar(&o.progress, "progress", "", "auto, plain, tty, quiet, rawjson or none")
	f.StringVar(&o.metadata, "metadata-file", "", "write what was built to this file, as JSON")
	f.StringVar(&o.trace, "trace", "", "write what ran when to this file, in Chrome's trace format")
	f.BoolVar(&o.explain, "explain", false, "say at the end why each step ran")
	f.BoolVar(&o.noCache, "no-cache", false, "run every step, whatever the cache holds")
	f.BoolVar(&o.verify, "verify-cache", false, "run the steps again that the cache has, and say which come to something else (exit 6)")
	f.BoolVar(&o.pull, "pull", false, "ask the registries for every base now")
	f.BoolVar(&o.push, "push", false, "push the tags, once everything has succeeded")
	f.BoolVar(&o.load, "load", false, "load the images into the Docker engine")
	f.VarP(&o.jobs, "jobs", "j", "steps that run at once, 0 for the number of CPUs; or a mode (fail-fast, defer-output, defer-error) with ,parallel=N")
	f.StringVar(&o.sbom, "sbom", "", "attest what the images are made of: true, false, or attributes")
	f.StringVar(&o.provenance, "provenance", "", "attest how the images were made: true, false, or attributes such as mode=max")
	f.StringArrayVar(&o.policy, "policy", nil, "options of the targets' BuildKit policies, which only buildx evaluates: disabled=true builds without")
	f.StringArrayVar(&o.allow, "allow", nil, "what the project may ask of this machine: network.host, security.insecure, ssh, device, fs=PATH, fs.read=PATH, fs.write=PATH")
}

// overrides are what the flags say of the targets, as --set would.
func (o *runOptions) overrides() []string {
	var all []string
	for _, flag := range []struct {
		on  bool
		key string
	}{{o.push, "push"}, {o.load, "load"}, {o.noCache, "no-cache"}, {o.pull, "pull"}} {
		if flag.on {
			all = append(all, "*."+flag.key+"=true")
		}
	}
	for _, a := range []struct{ kind, value string }{{"sbom", o.sbom}, {"provenance", o.provenance}} {
		if a.value != "" {
			all = append(all, "*.attest="+config.Attestation(a.kind, a.value))
		}
	}
	for _, p := range o.policy {
		all = append(all, "*.policy+="+p)
	}
	return all
}

// checkPolicies refuses targets with policies in BuildKit's language, Rego: a rule that nobody asks must not look kept.
func (o *runOptions) checkPolicies(p *config.Project) error {
	for _, t := range p.Targets {
		asked := slices.ContainsFunc(t.Policy, func(a config.Attrs) bool { return a["filename"] != "" })
		off := slices.ContainsFunc(t.Policy, func(a config.Attrs) bool { return a["disabled"] == "true" })
		if asked && !off {
			return usagef("target %s: its policy %s is in Rego, which only buildx evaluates: write the rule as a policy block, "+
				"or build without with --policy disabled=true", t.Name, t.Policy[0]["filename"])
		}
	}
	return nil
}

// progressMode is --progress, else BUILDKIT_PROGRESS.
func (o *runOptions) progressMode(a *app) string {
	if o.progress != "" {
		return o.progress
	}
	return a.env("BUILDKIT_PROGRESS")
}

// writeMetadata writes the metadata file, also of a build that failed.
func (o *runOptions) writeMetadata(g *planner.Graph, report *executor.Report, failure error) error {
	if o.metadata == "" {
		return nil
	}
	raw, err := executor.Metadata(report.Images, unfinished(g, report, failure))
	if err != nil {
		return fmt.Errorf("make the metadata: %w", err)
	}
	if err := renameio.WriteFile(o.metadata, raw, os.FileMode(0o644)); err != nil {
		return fmt.Errorf("write --metadata-file %s: %w", o.metadata, err)
	}
	return nil
}

// unfinished says of each target that came to nothing whether it failed or was not got to.
func unfinished(g *planner.Graph, report *executor.Report, failure error) map[string]string {
	if failure == nil {
		return nil
	}
	finished := map[string]bool{}
	for _, image := range report.Images {
		finished[image.Target] = true
	}
	failed, isStep := failedTargets(failure)
	all := map[string]string{}
	for _, image := range g.Images {
		switch {
		case finished[image.Target]:
		case isStep && !failed[image.Target]:
			all[image.Target] = "skipped"
		default:
			all[image.Target] = "failed"
		}
	}
	return all
}

// failedTargets are the targets of the steps that failed; ok says that only steps did.
func failedTargets(failure error) (targets map[string]bool, ok bool) {
	all := []error{failure}
	var several *executor.Failures
	if errors.As(failure, &several) {
		all = several.All
	}
	targets = map[string]bool{}
	for _, err := range all {
		var step *executor.StepError
		if !errors.As(err, &step) {
			return nil, false
		}
		for _, t := range step.Targets {
			targets[t] = true
		}
	}
	return targets, true
}

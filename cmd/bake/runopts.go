package main

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/terminal"
	"github.com/bakebuild/bake/planner"
	"github.com/bakebuild/bake/planner/pins"
)

// runOptions are the flags for how a graph runs, the same for every command that builds.
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
	builds     bool               // the command builds: policies that it cannot evaluate stop it
}

// Usage of flags that several commands have.
const (
	usageAllow = "permit access to network.host, network.local, security.insecure, ssh, device, or files: fs=PATH, " +
		"fs.read=PATH or fs.write=PATH; may be repeated"
	usagePull = "resolve every base tag in its registry again, even if its digest was resolved recently"
)

func (o *runOptions) addFlags(f *pflag.FlagSet) {
	o.builds = true
	f.StringArrayVar(&o.engine, "engine", nil,
		"address of a BuildKit daemon, such as tcp://HOST:1234, or name of an engine block; may be repeated")
	f.BoolVar(&o.debugShell, "debug-shell", false,
		"open a shell in the failed step's root file system, with its environment and mounts")
	f.StringVar(&o.progress, "progress", "",
		"progress display: auto, plain, tty, quiet, rawjson or none (default BUILDKIT_PROGRESS, else auto)")
	f.StringVar(&o.metadata, "metadata-file", "", "write metadata of the results to this file, as JSON")
	f.StringVar(&o.trace, "trace", "", "write a trace of the build to this file, in Chrome trace event format")
	f.BoolVar(&o.explain, "explain", false, "explain at the end why each step ran")
	f.BoolVar(&o.noCache, "no-cache", false, "run every step even if it is cached, and start cache mounts empty")
	f.BoolVar(&o.verify, "verify-cache", false,
		"re-run cached steps and report those whose result differs; exit with 6 if one does")
	f.BoolVar(&o.pull, "pull", false, usagePull)
	f.BoolVar(&o.push, "push", false, "push the tags after every target has succeeded")
	f.BoolVar(&o.load, "load", false, "load the images into the Docker engine")
	f.VarP(&o.jobs, "jobs", "j", "number of steps that run at once (default 0, the number of CPUs), "+
		"or a mode: fail-fast, defer-output or defer-error, with ,parallel=N")
	f.StringVar(&o.sbom, "sbom", "", "add an SBOM attestation to the images: true, false or attributes")
	f.StringVar(&o.provenance, "provenance", "",
		"add a provenance attestation to the images: true, false, or attributes such as mode=max")
	f.StringArrayVar(&o.policy, "policy", nil,
		"attributes of the targets' Rego policies, which only buildx evaluates; disabled=true builds without them, "+
			"also without a Dockerfile.rego")
	f.StringArrayVar(&o.allow, "allow", nil, usageAllow)
}

// overrides returns the flags that set attributes of targets, as values of --set.
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

// progressMode returns --progress, else BUILDKIT_PROGRESS.
func (o *runOptions) progressMode(a *app) string {
	if o.progress != "" {
		return o.progress
	}
	return a.env("BUILDKIT_PROGRESS")
}

// writeMetadata writes the file of --metadata-file, also for a failed build.
func (o *runOptions) writeMetadata(g *planner.Graph, report *executor.Report, failure error) error {
	if o.metadata == "" {
		return nil
	}
	raw, err := executor.Metadata(report.Images, unfinished(g, report, failure))
	if err != nil {
		return fmt.Errorf("encode the metadata: %w", err)
	}
	if err := executor.WriteFile(o.metadata, raw); err != nil {
		return fmt.Errorf("write --metadata-file %s: %w", o.metadata, err)
	}
	return nil
}

// unfinished returns "failed" or "skipped" for each target without a result. A target is skipped if none of its steps
// failed.
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

// failedTargets returns the targets of the steps that failed. ok reports whether nothing but steps failed.
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

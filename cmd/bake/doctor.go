package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/doctor"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/executor/terminal"
)

type doctorOptions struct {
	project projectOptions
	format  string
	offline bool
}

func newDoctorCommand(a *app) *cobra.Command {
	var o doctorOptions
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what builds need of this machine",
		Long: "Check the kernel, namespaces, the cache, the network of steps, registries, credential helpers and\n" +
			"engines, as a build uses them. Each line shows what was found and what to do. If there is a project\n" +
			"file, its registries and engines are checked too. No check takes longer than 5 s.\n\n" +
			"The exit code is 0 if builds work, perhaps with warnings. Otherwise it is that of a build: 7 if this\n" +
			"machine cannot run steps or use the cache, 5 if a registry, credentials or an engine fail.",
		Example: "  bake doctor\n  bake doctor --offline --format json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.doctorCommand(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.project.addFlags(f)
	f.StringVar(&o.format, "format", "text", "output format: text or json")
	f.BoolVar(&o.offline, "offline", false, "contact no registry, name server or BuildKit daemon")
	return cmd
}

// doctorError reports failed checks, which are printed already.
type doctorError struct {
	failed []string
	area   doctor.Area // of the most severe failure
}

func (e doctorError) Error() string {
	return fmt.Sprintf("%s failed: %s", plural(len(e.failed), "check"), strings.Join(e.failed, ", "))
}

// exitCode returns the exit code of a build that needs what failed.
func (e doctorError) exitCode() int {
	if e.area == doctor.Network {
		return exitRegistry
	}
	return exitSystem
}

// doctorCommand runs in the user namespace of a build, so that every check sees what a build sees. If there is none, it
// runs outside, and the report says why.
func (a *app) doctorCommand(ctx context.Context, o doctorOptions) (err error) {
	if o.format != "text" && o.format != "json" {
		return usagef("--format=%s: expected text or json", o.format)
	}
	user := doctor.User{Etc: "/etc", Proc: "/proc/self"}
	if a.enter != nil {
		code, done, err := a.enter(ctx)
		if done {
			return exitedError{code}
		}
		user.Entered = err
		if err := a.findPlace(ctx); err != nil {
			return err
		}
	}
	dir, err := a.cacheDir()
	if err != nil {
		return err
	}
	remote := a.remoteChecks(ctx, o)
	checks, done := doctor.MachineChecks(doctor.MachineOptions{
		User: user, CacheDir: dir, Place: a.place, Offline: o.offline,
	})
	checks = append(checks, remote...)
	defer func() { err = errors.Join(err, done()) }()
	report := newDoctorReport(a, checks, o.format)
	if err := doctor.Run(ctx, checks, report.add); err != nil {
		return err
	}
	if err := report.end(); err != nil {
		return err
	}
	if len(report.failed.failed) > 0 {
		return report.failed
	}
	return nil
}

// configPatience bounds the time to read the files that say which services to check.
const configPatience = 2 * time.Second

// remoteChecks returns the checks of services. The files that name them may be on a file system that does not respond.
func (a *app) remoteChecks(ctx context.Context, o doctorOptions) []doctor.Check {
	ctx, cancel := context.WithTimeout(ctx, configPatience)
	defer cancel()
	found := make(chan []doctor.Check, 1)
	go func() { found <- a.readRemoteChecks(ctx, o) }()
	select {
	case checks := <-found:
		return checks
	case <-ctx.Done():
		return []doctor.Check{doctor.Fault("configuration", doctor.Machine, fmt.Errorf("the project, registries.conf "+
			"and credentials were not read within %s; look for files that do not respond in the working directory and "+
			"the home directory", configPatience))}
	}
}

// readRemoteChecks is remoteChecks without a time limit.
func (a *app) readRemoteChecks(ctx context.Context, o doctorOptions) []doctor.Check {
	p, found := a.doctorProject(ctx, o.project)
	conf, err := registry.LoadConfig(registry.ConfigPaths(a.getenv))
	if err != nil {
		found = append(found, doctor.Fault("registries.conf", doctor.Network, err))
	}
	builders, err := a.builders(p, nil)
	if err != nil {
		found = append(found, doctor.Fault("engine", doctor.Network, err))
	}
	return append(found, doctor.RemoteChecks(doctor.RemoteOptions{
		Images: append(doctorImages(p), "docker.io/library/bake"), Engines: builders, Getenv: a.getenv,
		Offline: o.offline, Client: registry.New(registry.Options{
			Config: conf.With(a.registries), UserAgent: "bake/" + version(), Keychain: registry.NewKeychain(a.getenv),
			CertDirs: registry.CertDirs(a.getenv), Stall: 2 * time.Second, MaxWait: time.Second,
			Backoff: func(int) time.Duration { return 100 * time.Millisecond },
		}),
	})...)
}

// doctorProject loads the project if there is one. A project with mistakes is a warning: they are not the machine's.
func (a *app) doctorProject(ctx context.Context, o projectOptions) (*config.Project, []doctor.Check) {
	if len(o.files) == 0 && !a.hasProject() {
		return &config.Project{}, nil
	}
	p, err := a.wholeProject(ctx, o)
	finding := doctor.Finding{Status: doctor.OK}
	if err == nil {
		finding.Detail = plural(len(p.Targets), "target")
	} else {
		p = &config.Project{}
		first, _, _ := strings.Cut(err.Error(), "\n")
		finding = doctor.Finding{Status: doctor.Warning, Detail: first + "; its registries and engines are not checked"}
	}
	return p, []doctor.Check{{Name: "project", Run: func(context.Context) doctor.Finding { return finding }}}
}

// doctorImages returns the references that a project pulls and pushes, as far as its files name them: pinned images,
// and tags.
func doctorImages(p *config.Project) []string {
	var all []string
	if lock, err := config.ReadLock(p.Dir); err == nil && lock != nil && p.Dir != "" {
		all = slices.Sorted(maps.Keys(lock.Images))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Targets)) {
		all = append(all, p.Targets[name].Tags...)
	}
	return all
}

// doctorReport prints results, and keeps those that decide the exit code.
type doctorReport struct {
	out     io.Writer
	json    bool
	colors  bool
	width   int // of the longest name
	results []doctor.Result
	failed  doctorError
	err     error
}

func newDoctorReport(a *app, checks []doctor.Check, format string) *doctorReport {
	_, isTerminal := terminal.Is(a.stdout)
	r := &doctorReport{
		out: a.stdout, json: format == "json", results: []doctor.Result{}, failed: doctorError{area: doctor.Network},
		colors: isTerminal && a.env("NO_COLOR") == "" && a.env("TERM") != "dumb",
	}
	for _, c := range checks {
		r.width = max(r.width, len(strings.TrimSpace(c.Name+" "+c.Subject)))
	}
	r.width = min(r.width, maxDoctorName)
	return r
}

// maxDoctorName bounds the width of the column of names.
const maxDoctorName = 40

// add prints a result as text, as soon as it and those before it are known.
func (r *doctorReport) add(result doctor.Result) {
	r.results = append(r.results, result)
	name := strings.TrimSpace(result.Name + " " + result.Subject)
	if result.Status == doctor.Failure {
		r.failed.failed = append(r.failed.failed, name)
		r.failed.area = min(r.failed.area, result.Area) // Machine comes first
	}
	if r.json {
		return
	}
	text := result.Detail
	if result.Fix != "" {
		text += "; " + result.Fix
	}
	_, err := fmt.Fprintf(r.out, "%s  %-*s  %s\n", r.status(result.Status), r.width, name, text)
	r.err = errors.Join(r.err, err)
}

// status returns a status in a column of its own.
func (r *doctorReport) status(s doctor.Status) string {
	text := fmt.Sprintf("%-7s", s)
	color := map[doctor.Status]string{doctor.OK: "32", doctor.Warning: "33", doctor.Failure: "31"}[s]
	if !r.colors || color == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// end prints JSON, whose format is version 1.
func (r *doctorReport) end() error {
	if !r.json {
		return r.err
	}
	return printJSON(r.out, struct {
		Version int             `json:"version"`
		Checks  []doctor.Result `json:"checks"`
	}{1, r.results})
}

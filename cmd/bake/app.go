package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/dial"
	"github.com/bakebuild/bake/executor/embedded/fetch"
	"github.com/bakebuild/bake/executor/embedded/scratch"
	"github.com/bakebuild/bake/executor/registry"
	"github.com/bakebuild/bake/planner/pins"
)

// app holds what every command needs from the process: streams, environment and working directory. It also holds the
// settings of the running command that its flags and project decide.
type app struct {
	program string // name of the executable; "" where it does not matter
	stdin   io.Reader
	stdout  io.Writer // only what was requested
	stderr  io.Writer // progress, notes, errors
	environ map[string]string
	logs    *libraryLog     // of libraries; nil where it does not matter
	dir     string          // working directory; "" is the process's own
	fetcher *fetch.Fetcher  // fetches the files of a remote project; nil for a local one
	guard   *dial.Guard     // connects for a remote project; nil for a local one, or if it may connect to this machine
	offline bool            // contact no registry or server
	project *config.Project // the loaded project; nil before, and for commands without one
	pins    pins.Lock       // how the command uses bake.lock
	similar []string        // commands that a user may have meant by the name of a target
	// place is where layers are unpacked; nil if that is the cache.
	place *scratch.Place
	// registries are the registry blocks of the project. loadProject sets them.
	registries []registry.Registry
	// enter runs an unprivileged user's command again in a user namespace, as sandbox.Enter does; nil does nothing.
	enter func(ctx context.Context) (code int, done bool, err error)
}

// run executes one command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	stdout := &checkedWriter{w: a.stdout}
	a.stdout = stdout
	root := a.root()
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	args, err := a.commandLine(root, args)
	if err == nil {
		root.SetArgs(args)
		err = root.ExecuteContext(ctx)
	}
	if a.fetcher != nil {
		err = errors.Join(err, a.fetcher.Store.Close())
	}
	if a.guard != nil {
		err = errors.Join(err, a.guard.Close())
	}
	err = errors.Join(err, a.place.Close())
	if err == nil {
		err = stdout.err
	}
	var exited exitedError
	if errors.As(err, &exited) {
		return exited.code
	}
	code := exitCodeOf(ctx, err)
	if err != nil {
		printError(ctx, a.stderr, err)
		if code < exitSignal {
			a.annotate(err)
		}
	}
	return code
}

// checkedWriter keeps the first error of a writer, so that output which is missing never ends with exit code 0.
type checkedWriter struct {
	w   io.Writer
	err error
}

// Unwrap returns the writer.
func (c *checkedWriter) Unwrap() io.Writer { return c.w }

func (c *checkedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err != nil && c.err == nil {
		c.err = err
	}
	return n, err
}

// root returns the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "bake",
		Short: "Build container images from a project file, without a daemon",
		Long: "Build container images from a project file, without a daemon.\n\n" +
			"Without a command, bake is bake build: `bake web --push` builds and pushes the target web.",
		Example:       "  bake\n  bake web --push\n  bake image build -t hello .",
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(*cobra.Command, []string) error { return a.noProject() },
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if err := a.inNamespace(cmd.Context(), cmd); err != nil {
				return err
			}
			a.noteTarget(cmd.Context(), cmd, args)
			return nil
		},
	}
	root.SetVersionTemplate(versionText())
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(newHelpCommand(root))
	history := newHistoryCommand(a)
	history.Short = "Alias for bake image history"
	root.AddCommand(
		newBuildCommand(a),
		newPlanCommand(a),
		newExplainCommand(a),
		newAffectedCommand(a),
		newGraphCommand(a),
		newBuildsCommand(a),
		newReportCommand(a),
		newPinCommand(a),
		newUpdateCommand(a),
		newOutdatedCommand(a),
		newVerifyCommand(a),
		newImageCommand(a),
		history,
		newCacheCommand(a),
		newDoctorCommand(a),
		newConfigCommand(a),
		newInitCommand(a),
		newVersionCommand(a),
		newPluginCommand(a),
	)
	for _, c := range allCommands(root) {
		c.Args = usageArgs(c.Args)
	}
	return root
}

// allCommands returns c and all its subcommands.
func allCommands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, allCommands(sub)...)
	}
	return all
}

// flagError turns an error in the flags of a command into a usage error. It shortens pflag's message about an invalid
// value.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		reason := errors.Unwrap(invalid)
		if flag := invalid.GetFlag(); flag.Value.Type() == "bool" {
			reason = errors.New("expected true or false")
		}
		err = fmt.Errorf("--%s=%s: %w", invalid.GetFlag().Name, invalid.GetValue(), reason)
	}
	return usagef("%w%s (see %s --help)", err, similarFlag(cmd, err), cmd.CommandPath())
}

// usageArgs turns the errors of an argument check into usage errors that name the expected arguments.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	if check == nil {
		check = cobra.ArbitraryArgs
	}
	return func(cmd *cobra.Command, args []string) error {
		err := check(cmd, args)
		switch {
		case err == nil:
			return nil
		case cmd.HasSubCommands():
			err = fmt.Errorf("unknown command %q for %s%s", args[0], cmd.CommandPath(),
				didYouMean(config.Similar(args[0], commandNames(cmd))))
		default:
			err = fmt.Errorf("%s: expected %s, got %s",
				cmd.CommandPath(), argumentsOf(cmd), plural(len(args), "argument"))
		}
		return usagef("%w (see %s --help)", err, cmd.CommandPath())
	}
}

// argumentsOf returns the arguments of a command as its help shows them, without flags.
func argumentsOf(cmd *cobra.Command) string {
	var names []string
	fields := strings.Fields(cmd.Use)[1:]
	for i := 0; i < len(fields); i++ {
		switch {
		case strings.HasPrefix(fields[i], "--"):
		case strings.HasPrefix(strings.TrimPrefix(fields[i], "["), "-"):
			i++ // the value of the flag
		default:
			names = append(names, fields[i])
		}
	}
	if len(names) == 0 {
		return "no arguments"
	}
	return strings.Join(names, " ")
}

// env returns the value of an environment variable, "" if it is not set.
func (a *app) env(name string) string {
	return a.environ[name]
}

// getenv returns the value of an environment variable, and reports whether it is set.
func (a *app) getenv(name string) (string, bool) {
	v, ok := a.environ[name]
	return v, ok
}

// environment returns the environment of the process, by name.
func environment() map[string]string {
	all := map[string]string{}
	for _, pair := range os.Environ() {
		if name, value, ok := strings.Cut(pair, "="); ok {
			all[name] = value
		}
	}
	return all
}

// workDir returns the absolute working directory.
func (a *app) workDir() (string, error) {
	if a.dir != "" {
		return a.dir, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find the working directory: %w", err)
	}
	return dir, nil
}

// cacheDir returns the cache directory: BAKE_CACHE_DIR, else bake in XDG_CACHE_HOME, else ~/.cache/bake.
func (a *app) cacheDir() (string, error) {
	if dir := a.env("BAKE_CACHE_DIR"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", fmt.Errorf("BAKE_CACHE_DIR: %w", err)
		}
		return abs, nil
	}
	if dir := a.env("XDG_CACHE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "bake"), nil
	}
	home := a.env("HOME")
	if home == "" {
		return "", usagef("no cache directory: BAKE_CACHE_DIR, XDG_CACHE_HOME and HOME are not set; set BAKE_CACHE_DIR")
	}
	return filepath.Join(home, ".cache", "bake"), nil
}

// openStore opens the cache. The caller must close it.
func (a *app) openStore() (*cache.Store, error) {
	dir, err := a.cacheDir()
	if err != nil {
		return nil, err
	}
	s, err := cache.Open(dir)
	if err != nil {
		return nil, err
	}
	s.SetNote(func(text string) { a.note("%s", text) })
	if err := a.place.Use(s); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// origin returns what the store records with the names of images that the command builds.
func (a *app) origin() cache.Origin {
	switch {
	case a.project == nil:
		return cache.Origin{}
	case a.project.Remote == "":
		return cache.Origin{Project: a.project.Dir}
	}
	url, query, ok := strings.Cut(fetch.Public(a.project.Remote), "?")
	if ok { // it may hold a token, and may select the project
		url += "?" + digest.FromString(query).Encoded()[:12]
	}
	return cache.Origin{Project: url, Remote: true}
}

// newClient returns a registry client with the configuration of the user and the project.
func (a *app) newClient() (*registry.Client, error) {
	conf, err := registry.LoadConfig(registry.ConfigPaths(a.getenv))
	if err != nil {
		return nil, err
	}
	return registry.New(registry.Options{
		Config: conf.With(a.registries), UserAgent: "bake/" + version(), Keychain: registry.NewKeychain(a.getenv),
		CertDirs: registry.CertDirs(a.getenv), Offline: a.offline,
	}), nil
}

// note prints a message to stderr that is not an error.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, "note: "+format+"\n", args...)
}

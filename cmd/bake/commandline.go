package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/executor/docker"
)

// commandLine returns the arguments of the process with the command that they imply: `bake web` is `bake build web`,
// and a bare `bake` builds in a directory with a project.
func (a *app) commandLine(root *cobra.Command, args []string) ([]string, error) {
	if plugin := strings.TrimPrefix(a.program, "docker-"); plugin != a.program {
		args = a.pluginArgs(plugin, args)
	} else if len(args) > 0 && args[0] == root.Name() {
		args = args[1:] // `bake bake`, as others write `buildx bake`
	}
	if len(args) == 0 {
		if a.hasProject() {
			args = []string{"build"}
		}
		return args, nil
	}
	if isCommand(root, args[0]) || isRootFlag(args[0]) {
		return args, nil
	}
	if word := args[0]; isWord(word) && !a.hasProject() && !slices.ContainsFunc(args, namesFile) {
		return nil, usagef("unknown command %q%s (there is no project file here to build a target of; "+
			"create one with bake init)", word, didYouMean(config.Similar(word, commandNames(root))))
	}
	a.similar = commandNames(root)
	return slices.Concat([]string{"build"}, args), nil
}

// isCommand reports whether a word is a command, or one of those that cobra adds when it runs.
func isCommand(root *cobra.Command, word string) bool {
	added := []string{"help", "completion", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}
	return slices.Contains(added, word) || slices.ContainsFunc(root.Commands(), func(c *cobra.Command) bool {
		return c.Name() == word || c.HasAlias(word)
	})
}

// isRootFlag reports whether an argument is a flag of bake itself. All other flags are those of bake build.
func isRootFlag(arg string) bool {
	return slices.Contains([]string{"-h", "--help", "--version"}, arg)
}

// isWord reports whether an argument can be a mistyped command.
func isWord(arg string) bool { return !strings.HasPrefix(arg, "-") && !config.IsRemote(arg) }

// namesFile reports whether an argument is the flag for a project file.
func namesFile(arg string) bool {
	return arg == "--file" || strings.HasPrefix(arg, "--file=") || strings.HasPrefix(arg, "-f")
}

// commandNames returns the names of the commands that help lists.
func commandNames(root *cobra.Command) []string {
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return names
}

// didYouMean returns the end of a message about an unknown name, which is empty without a similar one.
func didYouMean(similar string) string {
	if similar == "" {
		return ""
	}
	return "; did you mean " + similar + "?"
}

// hasProject reports whether the working directory has a project file, or the environment names one.
func (a *app) hasProject() bool {
	if a.env("BUILDX_BAKE_FILE") != "" {
		return true
	}
	dir, err := a.workDir()
	return err == nil && slices.ContainsFunc(config.UsualFiles(), func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}

// noProject is the answer to a bare bake where there is nothing to build.
func (a *app) noProject() error {
	dir, err := a.workDir()
	if err != nil {
		return err
	}
	return usagef("no project file in %s; there are two ways to begin:\n"+
		"  bake init                       write a project file for the Dockerfiles below this directory\n"+
		"  bake image build -t NAME .      build a single Dockerfile\n"+
		"bake --help lists all commands", dir)
}

// noteTarget prints a note if the only argument is a command and also a target, which a user of Docker Bake may have
// meant. Only a project file that seems to define that name is evaluated.
func (a *app) noteTarget(ctx context.Context, cmd *cobra.Command, args []string) {
	name := cmd.Name()
	dir, err := a.workDir()
	if err != nil || len(args) > 0 || cmd.Parent() != cmd.Root() || name == "build" {
		return
	}
	defines := regexp.MustCompile(`(?m)\b(target|group)\s+"?` + name + `\b|^\s*"?` + name + `"?\s*:`)
	if !slices.ContainsFunc(config.UsualFiles(), func(file string) bool {
		raw, err := os.ReadFile(filepath.Join(dir, file))
		return err == nil && defines.Match(raw)
	}) {
		return
	}
	release := a.logs.hold() // the command shows what it says
	defer release(false)
	opts := config.Options{Dir: dir, Targets: []string{name}, Env: a.environ, Stdin: strings.NewReader("")}
	if _, _, err := config.Load(ctx, opts); err == nil {
		a.note("%s is a command; to build the target of that name, run bake build %s", name, name)
	}
}

// pluginArgs returns the arguments of a plugin of the Docker CLI as those of bake. The name of the plugin comes
// first. If it is the user's builder alias, `docker bake web` calls it with "bake web", and `docker build .` with
// "build .".
func (a *app) pluginArgs(plugin string, args []string) []string {
	if len(args) == 0 || args[0] != plugin {
		return args
	}
	args = args[1:]
	if len(args) == 0 || docker.Builder(a.env) != plugin {
		return args
	}
	switch args[0] {
	case "bake":
		return args[1:]
	case "build":
		return slices.Concat([]string{"image"}, args)
	}
	return args
}

// newPluginCommand returns the command by which the Docker CLI asks a plugin what it is. Bake is one if it is installed
// as docker-NAME in a directory for plugins.
func newPluginCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "docker-cli-plugin-metadata",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return printJSON(a.stdout, map[string]string{
				"SchemaVersion": "0.1.0", "Vendor": "bake", "Version": version(),
				"ShortDescription": "Build container images from a project file",
			})
		},
	}
}

// newHelpCommand returns the command that prints the help of another one.
func newHelpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND…]",
		Short:   "Show the help of a command",
		Example: "  bake help build\n  bake help image push",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				word := append(rest, args...)[0]
				return usagef("unknown command %q%s (see bake --help)", word,
					didYouMean(config.Similar(word, commandNames(cmd))))
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// similarFlag returns the end of a message about an unknown flag: the flag of a command that was probably meant.
func similarFlag(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) || unknown.GetSpecifiedShortnames() != "" {
		return ""
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if similar := config.Similar(unknown.GetSpecifiedName(), names); similar != "" {
		return didYouMean("--" + similar)
	}
	return ""
}

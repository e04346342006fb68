package embedded

import (
	"path"
	"slices"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// maxArgument is the size in bytes of the longest argument that Linux passes to a program.
const maxArgument = 128<<10 - 1

// longCommand is where a command is mounted that is too long for an argument. /dev is the step's own.
const longCommand = "/dev/bake-command"

// shortened lets a shell read a command that is too long for an argument, such as a large here-document, from a file.
// The shell reads it with ".", so that $0, the options and the end of the process are those of "sh -c COMMAND". A long
// argument of another program stays, and starting it fails.
func shortened(spec *sandbox.Spec) {
	n := len(spec.Args)
	if n < 3 || len(spec.Args[n-1]) <= maxArgument || !isShell(spec.Args) {
		return
	}
	spec.Mounts = append(spec.Mounts, sandbox.Mount{
		Dest: longCommand, Kind: sandbox.File, Content: []byte(spec.Args[n-1] + "\n"), Readonly: true, Mode: 0o444,
	})
	spec.Args = append(slices.Clone(spec.Args[:n-1]), ". "+longCommand)
}

// isShell reports whether the last argument is a command for a POSIX shell.
func isShell(args []string) bool {
	flag := args[len(args)-2]
	if len(flag) < 2 || flag[0] != '-' || flag[len(flag)-1] != 'c' {
		return false
	}
	return slices.Contains([]string{"sh", "ash", "bash", "busybox", "dash", "ksh", "mksh", "zsh"}, path.Base(args[0]))
}

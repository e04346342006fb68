package buildkitd

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	gatewaypb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// explain returns an error of a solve as the failure of its step, or nil if the error names no step of the graph.
func (b *batch) explain(err error) error {
	var vertex *errdefs.VertexError
	if !errors.As(err, &vertex) {
		return nil
	}
	step := b.builder.defs.steps[digest.Digest(vertex.Digest)]
	if step == nil {
		return nil
	}
	return b.stepFailed(step, err)
}

// denied refuses steps that need an entitlement which was not granted, before anything runs.
func (r *run) denied() error {
	for _, s := range r.graph.Steps {
		if err := executor.Denied(s, r.opts.Allow); err != nil {
			return &executor.StepError{Step: s.Name, Targets: s.Targets, Source: s.Source, ExitCode: -1, Err: err}
		}
	}
	return nil
}

// stepFailed returns the failure of a step, with its place and its last lines of output.
func (b *batch) stepFailed(step *planner.Step, err error) error {
	if step.Op.GetExec() == nil && step.Op.GetFile() == nil {
		return &Error{b.builder.Address, fmt.Errorf("%s%s: %w", at(step), step.Name, plain(err))}
	}
	failed := &executor.StepError{
		Step: step.Name, Targets: step.Targets, Source: step.Source, Last: b.run.status.lines(step.Digest),
	}
	if failed.ExitCode = exitCode(err); failed.ExitCode < 0 {
		failed.Err = plain(err)
	}
	return failed
}

// exitCode returns the exit code in an error, or -1. A solve returns it as a type, the status as text.
func exitCode(err error) int {
	var exit *gatewaypb.ExitError
	if errors.As(err, &exit) {
		if exit.ExitCode == gatewaypb.UnknownExitStatus {
			return -1
		}
		return int(exit.ExitCode)
	}
	var text vertexError
	if errors.As(err, &text) {
		_, code, ok := strings.Cut(string(text), "did not complete successfully: exit code: ")
		if n, err := strconv.Atoi(code); ok && err == nil {
			return n
		}
	}
	return -1
}

// at returns the target and place of a step, as the beginning of an error.
func at(step *planner.Step) string {
	var b strings.Builder
	if len(step.Targets) > 0 {
		fmt.Fprintf(&b, "target %s: ", step.Targets[0])
	}
	if place := executor.Place(step.Source); place != "" {
		b.WriteString(place + ": ")
	}
	return b.String()
}

// plainError is a daemon's error without the prefixes that BuildKit, gRPC and their transports add.
type plainError struct {
	text string
	err  error
	// unreachable reports that there is no connection to the daemon.
	unreachable bool
}

// Error implements error.
func (e *plainError) Error() string { return e.text }

// Unwrap returns the complete error.
func (e *plainError) Unwrap() error { return e.err }

// rewording replaces a pattern in the text of a daemon's error.
type rewording struct {
	pattern *regexp.Regexp
	by      string
}

// rewordings returns the replacements, in the order in which they are applied. An id with a double slash is one that
// unknownID returned.
func rewordings() []rewording {
	return []rewording{
		{regexp.MustCompile(`rpc error: code = \w+ desc = `), ""},
		{regexp.MustCompile(`failed to list workers: (Unavailable: )?`), ""},
		{regexp.MustCompile(`^(transport: |Error while dialing: |authentication handshake failed: |` +
			`error reading server preface: |failed to write client preface: )+`), ""},
		{regexp.MustCompile(`command \[(.*)\] has exited with exit status (\d+), make sure the URL is valid, ` +
			`and Docker \S+ or later is installed on the remote host: stderr=`), "$1: exit status $2: "},
		{regexp.MustCompile(`failed to (solve|load cache key|compute cache key|load LLB|` +
			`receive status|get status|dial): `), ""},
		{regexp.MustCompile(`failed to calculate checksum of ref \S+: "(.*)": not found`),
			"$1 not found in the source of the copy; check the path, and that .dockerignore does not exclude it"},
		{regexp.MustCompile(`secret \S*//(\S+): not found`),
			`secret "$1" not found; ` +
				`add it to the target: secret = ["id=$1,src=FILE"] (bake image build: --secret id=$1,src=FILE)`},
		{regexp.MustCompile(`no SSH key "\S*//(\S+)" forwarded from the client`),
			`SSH agent or key "$1" not found; ` +
				`add it to the target of a project file: ssh = ["$1"], or ["$1=KEYFILE"]`},
		{regexp.MustCompile(`^(network.host|security.insecure) is not allowed`),
			"the daemon does not allow $1; start it with --allow-insecure-entitlement=$1"},
	}
}

// plain returns a daemon's error as a plainError.
func plain(err error) error {
	text := unquoted(err.Error())
	for _, r := range rewordings() {
		text = r.pattern.ReplaceAllString(text, r.by)
	}
	return &plainError{text: text, err: err}
}

// unreachable is plain for an error of the connection to a daemon. It removes the address, which the message has
// already.
func unreachable(err error) error {
	text := plain(err).Error()
	pattern := regexp.MustCompile(`^dial (tcp|unix) \S+: (connect: )?`)
	cause := pattern.ReplaceAllString(text, "")
	if cause == text {
		return &plainError{text, err, true}
	}
	return &plainError{cause + "; start buildkitd there, or correct the address of the engine", err, true}
}

// unquoted returns the cause of a connection error, which gRPC puts in quotes. Other text stays as it is.
func unquoted(text string) string {
	_, quoted, ok := strings.Cut(text, "connection error: desc = ")
	if !ok {
		return text
	}
	plain, err := strconv.Unquote(quoted)
	if err != nil {
		return text
	}
	return strings.TrimSpace(plain)
}

// distinct returns errors without repeated texts.
func distinct(all []error) []error {
	var out []error
	for _, err := range all {
		if !slices.ContainsFunc(out, func(e error) bool { return e.Error() == err.Error() }) {
			out = append(out, err)
		}
	}
	return out
}

package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/embedded/fileop"
	"github.com/bakebuild/bake/executor/tree"
	"github.com/bakebuild/bake/planner"
)

// checkOwners reports the owners of a file operation that its stage does not have. As in BuildKit, their files belong
// to root. That is a warning, or an error if the Dockerfile requests errors. The names are stored with the result, so a
// cached step reports the same.
func (n *node) checkOwners() error {
	if _, ok := n.op.(*fileStep); !ok || n.entry == nil {
		return nil
	}
	check := n.b.graph.OwnerCheck(n.step)
	if check.Skip {
		return nil
	}
	for _, u := range n.unknownOwners() {
		text := ownerText(u) + ", so the files get " + insteadOf(u)
		if check.Fail {
			return n.stepError(errors.New(text), "check=error=true makes this an error")
		}
		if warn := n.b.opts.Warn; warn != nil {
			at := ""
			if place := executor.Place(n.step.Source); place != "" {
				at = place + ": "
			}
			warn(at + planner.RuleUnknownOwner + ": " + text)
		}
	}
	return nil
}

// unknownOwners returns the unknown owners that are stored with the result of a file operation.
func (n *node) unknownOwners() []fileop.UnknownName {
	var all []fileop.Lookup
	for _, l := range n.entry.Lookups {
		all = append(all, fileop.Lookup{Path: rawOf(l.Path), Answer: rawOf(l.Answer)})
	}
	return fileop.UnknownIn(all)
}

// ownerText describes an unknown name. The names may come from a hostile image.
func ownerText(u fileop.UnknownName) string {
	file := "/etc/passwd"
	if u.Kind == "group" {
		file = "/etc/group"
	}
	known := "has no names"
	if len(u.Known) > 0 {
		known = "has " + strings.Join(u.Known, ", ")
	}
	text := fmt.Sprintf("unknown %s %q: %s of the stage %s", u.Kind, u.Name, file, known)
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}

// insteadOf returns who owns the files of an unknown owner.
func insteadOf(u fileop.UnknownName) string {
	if u.Kind == "group" {
		return "the group of the user"
	}
	return "root"
}

// OwnerReport is what UnknownOwners finds.
type OwnerReport struct {
	Unknown []OwnerFinding
	// Open are the names that cannot be looked up, because the files of their stage are not on this machine.
	Open []OwnerFinding
}

// OwnerFinding is a name in a step or in the config of an image.
type OwnerFinding struct {
	Targets []string
	At      planner.Location // zero for the config of an image
	Text    string
}

// UnknownOwners returns the users and groups that a graph names and that their stages do not have: owners of copied
// files, and users of commands and images. Like Preview, it runs and downloads nothing, so it knows only the stages
// whose files are on this machine.
func (e *Engine) UnknownOwners(ctx context.Context, g *planner.Graph, opts executor.Options) (OwnerReport, error) {
	var r OwnerReport
	if !namesOwners(g) {
		return r, nil
	}
	opts.Events, opts.Warn = nil, nil
	b, err := e.newBuild(g, opts)
	if err != nil {
		return r, err
	}
	b.dry = true
	b.imports = e.newImports(ctx, g, opts)
	defer b.imports.close()
	defer b.close()
	for _, n := range b.nodes {
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		if err := n.foresee(ctx); err != nil {
			n.unknown = true
		}
		if !g.OwnerCheck(n.step).Skip {
			n.reportOwners(ctx, &r)
		}
	}
	for _, m := range g.Images {
		b.reportImageUser(m, &r)
	}
	return r, nil
}

// reportImageUser adds the user of an image.
func (b *build) reportImageUser(m *planner.Image, r *OwnerReport) {
	name := configUser(m)
	if !isName(name) || m.Root.Step == nil || b.graph.OwnerCheck(m.Root.Step).Skip {
		return
	}
	f := OwnerFinding{Targets: []string{m.Target}}
	if len(m.Root.Step.Source) > 0 {
		f.At = planner.Location{File: m.Root.Step.Source[0].File}
	}
	find := func(files tree.FS) ([]fileop.UnknownName, error) { return unknownUser(files, name) }
	r.add(f, "user "+name, b.of(m.Root), find, ", so the image cannot be started")
}

// reportOwners adds the unknown names of a step.
func (n *node) reportOwners(ctx context.Context, r *OwnerReport) {
	f := OwnerFinding{Targets: n.step.Targets}
	if len(n.step.Source) > 0 {
		f.At = n.step.Source[0]
	}
	switch op := n.op.(type) {
	case *fileStep:
		file := n.step.Op.GetFile()
		if n.result.Status == executor.StatusCached && n.entry != nil && len(n.unknownOwners()) > 0 {
			r.report(f, n.unknownOwners(), "")
		} else if fileop.HasNames(file) {
			r.add(f, "the owner", op.parent(), func(files tree.FS) ([]fileop.UnknownName, error) {
				return fileop.UnknownOwners(file, files)
			}, "")
		}
	case *execStep:
		if name := op.exec.GetMeta().GetUser(); isName(name) {
			r.add(f, "user "+name, op.whole[0].in, func(files tree.FS) ([]fileop.UnknownName, error) {
				return unknownUser(files, name)
			}, ", so the command fails")
		}
	}
}

// add looks up names in the files of an input.
func (r *OwnerReport) add(
	f OwnerFinding, what string, in input, find func(tree.FS) ([]fileop.UnknownName, error), effect string,
) {
	var found []fileop.UnknownName
	err := errNoChain
	if uncertain([]input{in}) == nil {
		err = in.read(context.Background(), func(files tree.FS) error {
			var err error
			found, err = find(files)
			return err
		})
	}
	if err != nil {
		f.Text = what
		r.Open = append(r.Open, f)
		return
	}
	r.report(f, found, effect)
}

// report adds unknown names.
func (r *OwnerReport) report(f OwnerFinding, found []fileop.UnknownName, effect string) {
	for _, u := range found {
		one := f
		one.Text = ownerText(u) + effect
		if effect == "" {
			one.Text += ", so the files get " + insteadOf(u)
		}
		r.Unknown = append(r.Unknown, one)
	}
}

// namesOwners reports whether a graph names a user or group.
func namesOwners(g *planner.Graph) bool {
	for _, s := range g.Steps {
		if fileop.HasNames(s.Op.GetFile()) || isName(s.Op.GetExec().GetMeta().GetUser()) {
			return true
		}
	}
	for _, m := range g.Images {
		if isName(configUser(m)) {
			return true
		}
	}
	return false
}

// configUser returns the user of an image.
func configUser(m *planner.Image) string {
	var c struct {
		Config struct{ User string } `json:"config"`
	}
	if json.Unmarshal(m.Config, &c) != nil {
		return ""
	}
	return c.Config.User
}

// isName reports whether USER[:GROUP] has a part that is neither a number nor root, which every image has.
func isName(user string) bool {
	for part := range strings.SplitSeq(user, ":") {
		if _, err := strconv.Atoi(part); err != nil && part != "" && part != "root" {
			return true
		}
	}
	return false
}

// unknownUserError adds the names that exist to the error of a user that a root does not have.
func unknownUserError(files tree.FS, name string, err error) error {
	found, err1 := unknownUser(files, name)
	if err1 != nil || len(found) == 0 {
		return err
	}
	return errors.New(ownerText(found[0]))
}

// unknownUser returns the parts of USER[:GROUP] that are not in the account files of a root.
func unknownUser(files tree.FS, name string) ([]fileop.UnknownName, error) {
	var all []fileop.UnknownName
	user, group, _ := strings.Cut(name, ":")
	for _, part := range []struct{ kind, file, name string }{
		{"user", "/etc/passwd", user}, {"group", "/etc/group", group},
	} {
		if !isName(part.name) {
			continue
		}
		raw, err := readUserFile(files, part.file)
		if err != nil {
			return nil, err
		}
		if !hasName(raw, part.name) {
			all = append(all, fileop.UnknownName{Kind: part.kind, Name: part.name, Known: fileop.Names(raw)})
		}
	}
	return all, nil
}

func hasName(raw []byte, name string) bool {
	for line := range strings.Lines(string(raw)) {
		if first, _, _ := strings.Cut(strings.TrimSpace(line), ":"); first == name {
			return true
		}
	}
	return false
}

// readUserFile returns the content of an account file; nil if it does not exist.
func readUserFile(files tree.FS, name string) ([]byte, error) {
	f, err := openUserFile(files, name)
	if err != nil || f == nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxUserFile))
	return raw, errors.Join(err, f.Close())
}

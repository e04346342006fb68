package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"encoding/json"

	"github.com/spf13/pflag"

	"github.com/bakebuild/bake/config"
)

// projectOptions are the flags that say what to read and which targets are meant.
type projectOptions struct {
	files   []string
	set     []string
	vars    []string
	targets []string
}

func (o *projectOptions) addFlags(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.files, "file", "f", nil, "project file (default: bake.hcl, bake.yaml, docker-bake.hcl, docker-bake.json); repeat to merge several")
	f.StringArrayVar(&o.set, "set", nil, "override an attribute: TARGET.KEY=VALUE")
	f.StringArrayVar(&o.vars, "var", nil, "set a variable: NAME=VALUE")
}

func (a *app) loadOptions(o projectOptions) (config.Options, error) {
	dir, err := a.workDir()
	return config.Options{
		Dir: dir, Files: o.files, Set: o.set, Vars: o.vars, Targets: o.targets, Env: a.getenv, Stdin: a.stdin,
	}, err
}

// loadProject evaluates the project and tells what in it has no effect.
func (a *app) loadProject(ctx context.Context, o projectOptions) (*config.Project, error) {
	opts, err := a.loadOptions(o)
	if err != nil {
		return nil, err
	}
	p, warnings, err := config.Load(ctx, opts)
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
	return p, nil
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

// list prints targets or variables: what is "targets", "variables", or "type=…,format=json".
func (a *app) list(ctx context.Context, o projectOptions, what string) error {
	opts, err := a.loadOptions(o)
	if err != nil {
		return err
	}
	kind, format, err := listArgs(what)
	if err != nil {
		return err
	}
	rows, err := config.List(ctx, opts, kind)
	if err != nil {
		return err
	}
	if format == "json" {
		e := json.NewEncoder(a.stdout)
		e.SetIndent("", "  ")
		return e.Encode(rows)
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 3, ' ', 0)
	if kind == "targets" {
		fmt.Fprintln(w, "TARGET\tDESCRIPTION")
	} else {
		fmt.Fprintln(w, "VARIABLE\tTYPE\tVALUE\tDESCRIPTION")
	}
	for _, r := range rows {
		switch {
		case kind == "variables":
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Name, r.Type, r.Value, r.Description)
		case r.Description == "" && r.Targets != "":
			fmt.Fprintf(w, "%s\t%s\n", r.Name, r.Targets)
		default:
			fmt.Fprintf(w, "%s\t%s\n", r.Name, r.Description)
		}
	}
	return w.Flush()
}

func listArgs(what string) (kind, format string, err error) {
	kind, format = what, "table"
	if strings.Contains(what, "=") {
		kind = ""
		for part := range strings.SplitSeq(what, ",") {
			key, value, _ := strings.Cut(part, "=")
			switch key {
			case "type":
				kind = value
			case "format":
				format = value
			default:
				return "", "", usagef("--list=%s: expected type=… and format=…", what)
			}
		}
	}
	if kind != "targets" && kind != "variables" || format != "table" && format != "json" {
		return "", "", usagef("--list=%s: expected targets or variables, as table or json", what)
	}
	return kind, format, nil
}

// setOutputs makes --push and --load of the outputs that the targets have: an image that goes nowhere else is pushed or
// loaded, one that has outputs is so too.
func (o *runOptions) setOutputs(p *config.Project) {
	for _, name := range p.Requested {
		t := p.Targets[name]
		if o.push {
			t.Outputs = withPush(t.Outputs)
		}
		if o.load {
			t.Outputs = withLoad(t.Outputs)
		}
	}
}

func withPush(outputs []config.Attrs) []config.Attrs {
	var all []config.Attrs
	done := false
	for _, out := range outputs {
		if out["type"] == "image" || out["type"] == "registry" {
			next := config.Attrs{}
			for k, v := range out {
				next[k] = v
			}
			next["push"] = "true"
			out, done = next, true
		}
		all = append(all, out)
	}
	if !done {
		all = append(all, config.Attrs{"type": "image"}, config.Attrs{"type": "image", "push": "true"})
	}
	return all
}

func withLoad(outputs []config.Attrs) []config.Attrs {
	for _, out := range outputs {
		if out["type"] == "docker" && out["dest"] == "" {
			return outputs
		}
	}
	if len(outputs) == 0 {
		outputs = []config.Attrs{{"type": "image"}}
	}
	return append(outputs[:len(outputs):len(outputs)], config.Attrs{"type": "docker"})
}

// noteLatest tells of tags that are not written out.
func (a *app) noteLatest(p *config.Project) {
	for _, name := range p.Requested {
		for _, tag := range p.Targets[name].Tags {
			if lacksTag(tag) {
				a.note("%s has no tag: it becomes %s:latest, which moves with every build", tag, tag)
			}
		}
	}
}

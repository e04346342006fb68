package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// call is the value of --call: a request to the Dockerfile frontend instead of a build, and the format of its answer.
type call struct {
	name         string // of the frontend's method; "" builds
	json         bool
	ignoreStatus bool
}

// parseCall reads NAME[,format=json][,ignorestatus=true].
func parseCall(text string, check bool) (call, error) {
	if check {
		text = "check" + strings.TrimPrefix(text, "build")
	}
	var c call
	for i, part := range strings.Split(text, ",") {
		key, value, hasValue := strings.Cut(part, "=")
		if i == 0 && !hasValue {
			key, value = "method", part
		}
		var err error
		switch key {
		case "method":
			c.name, err = callName(value)
		case "format":
			c.json = value == "json"
			if !c.json && value != "text" {
				err = usagef("--call=%s: expected format=json or format=text", text)
			}
		case "ignorestatus":
			if c.ignoreStatus, err = strconv.ParseBool(value); err != nil {
				err = usagef("--call=%s: expected ignorestatus=true or false", text)
			}
		default:
			err = usagef("--call=%s: unknown option %q; use format or ignorestatus", text, key)
		}
		if err != nil {
			return c, err
		}
	}
	return c, nil
}

// callName returns the frontend's name of a method.
func callName(name string) (string, error) {
	switch name {
	case "", "build":
		return "", nil
	case "check", planner.CallLint:
		return planner.CallLint, nil
	case planner.CallOutline, planner.CallTargets:
		return name, nil
	}
	return "", usagef("--call=%s: expected build, check, outline or targets", name)
}

// overrides returns --set values that request the call of every target.
func (c call) overrides() []string {
	if c.name == "" {
		return nil
	}
	return []string{"*.call=" + c.name}
}

// splitCalls splits the requested targets into those to build and those with another call.
func splitCalls(p *config.Project) (built, called *config.Project) {
	b, c := *p, *p
	b.Requested, c.Requested = nil, nil
	for _, name := range p.Requested {
		if n := p.Targets[name].Call; n == "" || n == "build" {
			b.Requested = append(b.Requested, name)
		} else {
			c.Requested = append(c.Requested, name)
		}
	}
	return &b, &c
}

// callProject prints the frontend's answers about the targets. A target that cannot be built and a warning are errors,
// unless the status is ignored.
func (a *app) callProject(ctx context.Context, p *config.Project, c call, o runOptions) error {
	s, err := a.open(o.pull)
	if err != nil {
		return err
	}
	defer s.Close()
	answers, err := planner.Call(ctx, p, planner.Options{
		Resolver: s.resolver, Fetcher: s.fetcher, RefuseRego: true,
	})
	if err != nil {
		return err
	}
	if err := a.addOwners(ctx, s, p, answers); err != nil {
		return err
	}
	if c.json {
		err = a.printAnswers(p, answers)
	} else {
		err = a.showAnswers(p, answers)
	}
	if err != nil || c.ignoreStatus {
		return err
	}
	warnings := 0
	for _, one := range answers {
		if one.Failure != "" {
			return checkError{"target " + one.Target + " cannot be built"}
		}
		warnings += one.Warnings
	}
	if warnings > 0 {
		return checkError{plural(warnings, "warning")}
	}
	return nil
}

// showAnswers prints the answers as text.
func (a *app) showAnswers(p *config.Project, answers []planner.Answer) error {
	for i, one := range answers {
		if i > 0 {
			fmt.Fprintln(a.stdout)
		}
		fmt.Fprintln(a.stdout, one.Target)
		if d := p.Targets[one.Target].Description; d != "" {
			fmt.Fprintln(a.stdout, d)
		}
		fmt.Fprintln(a.stdout)
		if err := one.Print(a.stdout); err != nil {
			return err
		}
	}
	return nil
}

// printAnswers prints each target as JSON: what --print prints under "build", the answer under the name of its call.
func (a *app) printAnswers(p *config.Project, answers []planner.Answer) error {
	raw, err := config.Print(p)
	if err != nil {
		return err
	}
	var printed struct {
		Group  json.RawMessage            `json:"group,omitempty"`
		Target map[string]json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(raw, &printed); err != nil {
		return err
	}
	out := struct {
		Group  json.RawMessage                       `json:"group,omitempty"`
		Target map[string]map[string]json.RawMessage `json:"target"`
	}{printed.Group, map[string]map[string]json.RawMessage{}}
	for name := range maps.Keys(printed.Target) {
		out.Target[name] = map[string]json.RawMessage{"build": printed.Target[name]}
	}
	for _, one := range answers {
		key := p.Targets[one.Target].Call
		if key == planner.CallLint {
			key = "check"
		}
		out.Target[one.Target][key] = one.JSON
	}
	e := json.NewEncoder(a.stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(out)
}

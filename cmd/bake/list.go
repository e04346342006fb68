package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/bakebuild/bake/config"
)

// list prints targets or variables exactly as Docker Bake does, because scripts read the output. spec is "targets",
// "variables", or "type=…,format=json".
func (a *app) list(ctx context.Context, o projectOptions, spec string) (err error) {
	opts, err := a.loadOptions(ctx, o)
	if err != nil {
		return err
	}
	kind, format, err := listArgs(spec)
	if err != nil {
		return err
	}
	release := a.logs.hold()
	defer func() { release(err == nil) }()
	if kind == "variables" {
		all, err := config.ListVariables(ctx, opts)
		if err != nil {
			return err
		}
		if format == "json" {
			return encodeList(a.stdout, all)
		}
		return tableOfVariables(a.stdout, all)
	}
	all, err := config.ListTargets(ctx, opts)
	if err != nil {
		return err
	}
	if format == "json" {
		return encodeList(a.stdout, all)
	}
	w := tabwriter.NewWriter(a.stdout, 1, 8, 1, '\t', 0)
	fmt.Fprint(w, "TARGET\tDESCRIPTION\n")
	for _, t := range all {
		fmt.Fprintf(w, "%s\t%s\n", t.Name, t.Description)
	}
	return w.Flush()
}

func tableOfVariables(out io.Writer, all []config.ListedVariable) error {
	w := tabwriter.NewWriter(out, 1, 8, 1, '\t', 0)
	fmt.Fprint(w, "VARIABLE\tTYPE\tVALUE\tDESCRIPTION\n")
	for _, v := range all {
		value := "<null>"
		if v.Value != nil {
			value = *v.Value
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", v.Name, v.Type, value, v.Description)
	}
	return w.Flush()
}

func encodeList(out io.Writer, list any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(list)
}

// listArgs parses the value of --list.
func listArgs(spec string) (kind, format string, err error) {
	kind, format = spec, "table"
	if strings.Contains(spec, "=") {
		kind = ""
		for part := range strings.SplitSeq(spec, ",") {
			key, value, _ := strings.Cut(part, "=")
			switch strings.ToLower(strings.TrimSpace(key)) {
			case "type":
				kind = value
			case "format":
				format = value
			default:
				return "", "", usagef("--list=%s: expected type=… and format=…", spec)
			}
		}
	}
	if kind != "targets" && kind != "variables" || format != "table" && format != "json" {
		return "", "", usagef("--list=%s: expected targets or variables, as table or json", spec)
	}
	return kind, format, nil
}

package config

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	units "github.com/docker/go-units"
	"github.com/hashicorp/hcl/v2"
)

// fault is a value that no build accepts.
type fault struct {
	attribute string
	item      any // the element of the list, a string or Attrs; nil for an attribute that is no list
	key       string
	text      string // what is wrong and what to do
}

// check returns the faults in the values of a target. It checks the merged values, because a parent may have a value
// that each of its heirs replaces. What depends on files or on the environment is left to the build.
func (l *loader) check(t *Target) hcl.Diagnostics {
	all := slices.Concat(t.checkSources(), checkPlatforms(t.Platforms), t.checkLimits(),
		checkAnnotations(t.Annotations), checkOutputs(t.Outputs), checkAttest(t.Attest), checkRego(t.Policy))
	var diags hcl.Diagnostics
	for _, f := range all {
		diags = append(diags, l.blame(t.Name, f))
	}
	return diags
}

// checkSources refuses standard input, which several targets would have to share.
func (t *Target) checkSources() []fault {
	var all []fault
	if t.Context == "-" {
		all = append(all, fault{attribute: "context", text: "a target cannot read its context from standard input; " +
			"use a directory, an archive or a URL"})
	}
	if t.Dockerfile == "-" {
		all = append(all, fault{attribute: "dockerfile", text: "a target cannot read its Dockerfile from standard " +
			"input; use a file, or dockerfile-inline"})
	}
	return all
}

// checkPlatforms checks the platforms of a target. An element may list several, separated by commas.
func checkPlatforms(list []string) []fault {
	var all []fault
	for _, s := range list {
		for one := range strings.SplitSeq(s, ",") {
			if strings.EqualFold(one, "local") {
				continue
			}
			if _, err := platforms.Parse(one); err != nil {
				all = append(all, fault{attribute: "platforms", item: s,
					text: fmt.Sprintf("unknown platform %q; use os/arch, such as linux/arm64", clip(one))})
			}
		}
	}
	return all
}

// checkLimits checks shm-size, ulimits and resources.
func (t *Target) checkLimits() []fault {
	var all []fault
	if _, written := t.Ranges["shm-size"]; written && !isSize(t.ShmSize) {
		all = append(all, fault{attribute: "shm-size",
			text: fmt.Sprintf("invalid shm-size %q; use a size such as 128m", clip(t.ShmSize))})
	}
	for _, u := range t.Ulimits {
		if _, err := units.ParseUlimit(u); err != nil {
			all = append(all, fault{attribute: "ulimits", item: u, text: ulimitProblem(u)})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.Resources)) {
		value, want := t.Resources[key], ""
		switch key {
		case "memory", "memory-swap":
			if !isSize(value) && (key == "memory" || value != "-1") {
				want = "use a size such as 512m"
			}
		case "cpu-shares", "cpu-period", "cpu-quota":
			if _, err := strconv.ParseInt(value, 10, 64); err != nil {
				want = "use an integer"
			}
		}
		if want != "" {
			all = append(all, fault{attribute: "resources", key: key,
				text: fmt.Sprintf("invalid %s %q; %s", key, clip(value), want)})
		}
	}
	return all
}

func isSize(s string) bool {
	n, err := units.RAMInBytes(s)
	return err == nil && n >= 0
}

// ulimitProblem describes an invalid ulimit.
func ulimitProblem(s string) string {
	name, limits, _ := strings.Cut(s, "=")
	soft, hard, both := strings.Cut(limits, ":")
	if _, err := units.ParseUlimit(name + "=0"); err != nil && limits != "" {
		return fmt.Sprintf("unknown ulimit %q; use a limit such as nofile, nproc or core", clip(name))
	}
	_, softErr := strconv.ParseInt(soft, 10, 64)
	_, hardErr := strconv.ParseInt(hard, 10, 64)
	if softErr == nil && hardErr == nil && both {
		return fmt.Sprintf("invalid ulimit %q: the soft limit exceeds the hard limit; write NAME=SOFT:HARD", clip(s))
	}
	return fmt.Sprintf("invalid ulimit %q; write NAME=SOFT or NAME=SOFT:HARD, such as nofile=1024:2048", clip(s))
}

// checkAnnotations checks the levels of annotations: LEVEL[PLATFORM],LEVEL:KEY=VALUE.
func checkAnnotations(list []string) []fault {
	var all []fault
	for _, s := range list {
		name, _, _ := strings.Cut(s, "=")
		levels, _, ok := strings.Cut(name, ":")
		if !ok {
			continue
		}
		for one := range strings.SplitSeq(levels, ",") {
			level, platform, ok := cutPlatform(one)
			text := ""
			if !ok || !slices.Contains(annotationLevels(), level) {
				text = fmt.Sprintf("unknown annotation level %q; use manifest, index, manifest-descriptor or "+
					"index-descriptor, with a platform as in manifest[linux/arm64]", clip(one))
			} else if _, err := platforms.Parse(platform); platform != "" && err != nil {
				text = fmt.Sprintf("unknown platform %q of an annotation; use os/arch, such as linux/arm64",
					clip(platform))
			}
			if text != "" {
				all = append(all, fault{attribute: "annotations", item: s, text: text})
			}
		}
	}
	return all
}

func annotationLevels() []string {
	return []string{"manifest", "index", "manifest-descriptor", "index-descriptor"}
}

// cutPlatform splits LEVEL[PLATFORM]. It reports false if the brackets are not as in that form.
func cutPlatform(s string) (level, platform string, ok bool) {
	level, rest, found := strings.Cut(s, "[")
	if !found {
		return level, "", true
	}
	platform, closed := strings.CutSuffix(rest, "]")
	valid := regexp.MustCompile(`^[A-Za-z0-9_/-]+$`)
	return level, platform, closed && valid.MatchString(platform)
}

// checkOutputs checks the destinations of outputs.
func checkOutputs(list []Attrs) []fault {
	var all []fault
	stdout := 0
	for _, out := range list {
		text, dest := "", out["dest"]
		isDir := out["type"] == "local"
		if tar, err := strconv.ParseBool(out["tar"]); err == nil && !tar {
			isDir = isDir || out["type"] == "oci" || out["type"] == "docker"
		}
		switch {
		case isDir && dest == "":
			text = fmt.Sprintf("output type=%s needs a directory: add dest=DIR", out["type"])
		case isDir && dest == "-":
			text = fmt.Sprintf("output type=%s is a directory and cannot be written to standard output; "+
				"set dest to a directory", out["type"])
		case dest == "-" && (out["type"] == "tar" || out["type"] == "oci" || out["type"] == "docker"):
			if stdout++; stdout == 2 {
				text = "two outputs write to standard output; add dest=FILE to one of them"
			}
		}
		if text != "" {
			all = append(all, fault{attribute: "output", item: out, text: text})
		}
	}
	return all
}

// checkAttest checks the switch of attestations.
func checkAttest(list []Attrs) []fault {
	var all []fault
	for _, m := range list {
		if s, ok := m["disabled"]; ok {
			if _, err := parseBool(s); err != nil {
				all = append(all, fault{attribute: "attest", item: m, text: "disabled: " + err.Error()})
			}
		}
	}
	return all
}

// checkRego checks the keys of policies in Rego.
func checkRego(list []Attrs) []fault {
	levels := []string{"panic", "fatal", "error", "warn", "warning", "info", "debug", "trace"}
	var all []fault
	for _, m := range list {
		for _, key := range slices.Sorted(maps.Keys(m)) {
			text := ""
			switch key {
			case "filename":
				if m[key] == "" {
					text = "filename is empty; name a file"
				}
			case "reset", "disabled", "strict":
				if _, err := parseBool(m[key]); err != nil {
					text = key + ": " + err.Error()
				}
			case "log-level":
				if !slices.Contains(levels, strings.ToLower(m[key])) {
					text = fmt.Sprintf("unknown log-level %q; use one of %s", clip(m[key]), strings.Join(levels, ", "))
				}
			default:
				text = fmt.Sprintf("unknown key %q%s", clip(key),
					nearest(key, []string{"filename", "reset", "disabled", "strict", "log-level"}))
			}
			if text != "" {
				all = append(all, fault{attribute: "policy", item: m, text: "policy: " + text})
			}
		}
	}
	return all
}

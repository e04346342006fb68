package main

import "context"

// tool is a builder to measure.
type tool interface {
	name() string
	// fresh removes everything that was built.
	fresh(ctx context.Context) error
	// build builds targets of the project in a directory.
	build(ctx context.Context, j job) (sample, error)
	close() error
}

// job is one build.
type job struct {
	dir     string
	targets []string
	// output is "cacheonly", "oci" (a file for each target) or "push".
	output string
	// registry is the HOST:PORT to push to; each tool has its own path there.
	registry string
}

// flags returns the flags that set the output of every target, which are the same for all tools.
func (j job) flags(tool string) []string {
	if j.output == "cacheonly" {
		return []string{"--set", "*.output=type=cacheonly"}
	}
	var flags []string
	for _, t := range j.targets {
		if j.output == "oci" {
			flags = append(flags, "--set", t+".output=type=oci,dest="+t+".tar")
			continue
		}
		flags = append(flags, "--set", t+".output=type=registry", "--set", t+".tags="+j.registry+"/"+tool+"/"+t+":1")
	}
	return flags
}

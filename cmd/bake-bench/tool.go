package main

import "context"

// tool is one builder under test.
type tool interface {
	name() string
	// fresh forgets everything that was built.
	fresh(ctx context.Context) error
	// build builds targets of the project in a folder.
	build(ctx context.Context, j job) (sample, error)
	close() error
}

// job is one build.
type job struct {
	dir     string
	targets []string
	// output is "cacheonly", "oci" (a file for each target) or "push".
	output string
	// registry is where push puts images, in a folder of the tool's.
	registry string
}

// flags give every target its output, the same for all tools.
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

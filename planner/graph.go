// Package planner turns a config.Project into one deduplicated build graph. It resolves bases, runs BuildKit's
// Dockerfile front end in this process and merges every target and platform by content digest. It starts no process
// and writes no file.
package planner

import (
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// Graph is everything that an engine needs: steps in order, inputs before users. It is never written after Plan
// returned it, and its bytes are the same on every run, checkout path and user.
type Graph struct {
	Steps  []*Step
	Images []*Image // in the order requested
	// Locals are the build contexts by the name that "local://NAME" sources use: the path relative to the project
	// directory where it was written so or lies below it.
	Locals map[string]Local
	// Layouts are OCI image layout directories by the name that the oci.store attribute of a source uses.
	Layouts map[string]Local
	// Files are those that the plan read, or looked for in vain: Dockerfiles and ignore files. Absolute, sorted.
	Files []string
	// Secrets and SSH are what each target offers to its steps, by target name. They are in no digest.
	Secrets map[string][]config.Secret
	SSH     map[string][]config.SSH
	// Bases are the images that the targets stand on or copy from, by reference.
	Bases []BaseUse
	// Sources are what else the targets read from elsewhere and a lock can pin, by key.
	Sources []SourceUse
	// Declared counts the steps of all targets and platforms before merging.
	Declared int
	Warnings []Warning
}

// Local is a directory that steps read in place. What is ignored stands in the source op's own attributes
// (local.excludepatterns, as in BuildKit), since two targets may ignore different files of one directory.
type Local struct {
	Dir string // absolute
}

// Step is one vertex. Digest is the digest of the canonical Op, whose inputs name the Digests of other steps.
// Everything below Inputs is outside what is hashed.
type Step struct {
	Digest digest.Digest
	Op     *pb.Op // read-only; Op.Inputs[i] is Inputs[i]
	Inputs []Edge

	Name      string // display name, such as "[api build 2/4] RUN make"
	Own       string // the same without the targets: "[build 2/4] RUN make"
	Source    []Location
	Targets   []string // that want it: the requested ones in order, then those that are only linked
	NoCache   bool     // no-cache or no-cache-filter of any of its targets asks that it runs
	Resources *pb.LinuxResources
	Test      *Test // set for a test of an image, which comes after all that the image is made of
}

// Edge is one output of a step. The zero Edge is scratch: an empty file system.
type Edge struct {
	Step  *Step
	Index int
}

// Location is a range of lines of a Dockerfile.
type Location struct {
	File  string `json:"file"` // relative to the project directory where it is below it
	Start int    `json:"line,omitempty"`
	End   int    `json:"endLine,omitempty"` // lines from 1, inclusive
}

// Image is one platform of one requested target.
type Image struct {
	Target   string
	Platform ocispecs.Platform
	// MultiPlatform says that this is one of several platforms of its target, to be gathered into one index.
	MultiPlatform bool
	Root          Edge
	// Config is the image config as the front end made it: a Docker OCI image whose rootfs lists the base's layers
	// only. Whoever assembles the image adds its own layers and aligns the history.
	Config      []byte
	Tags        []string
	Annotations []string
	Outputs     []config.Attrs
	// Tests must all pass before anything is written of the target.
	Tests []*Step
	// Base is the name and digest of the image that the final stage stands on, or empty.
	Base Base
	// Provenance is what is to be attested of how the image was made; nil for nothing.
	Provenance *Provenance
	// SBOM is where the scanner leaves what it found in the image; nil when none is asked for.
	SBOM *Edge
	// Epoch is what the user's SOURCE_DATE_EPOCH argument came to, or nil when there is none.
	Epoch *time.Time
}

// Base is an image that a build stands on.
type Base struct {
	Ref    string // as resolved: docker.io/library/python:3.8-alpine
	Digest digest.Digest
}

// Warning is what the front end's linter or the planner found; it never stops a build.
type Warning struct {
	Target      string
	Rule        string // the linter's rule name, or ""
	Message     string
	Description string
	URL         string
	Location    Location
}

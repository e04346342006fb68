// Package planner turns a config.Project into one deduplicated build graph. It resolves base images, runs BuildKit's
// Dockerfile frontend in this process, and merges the steps of all targets and platforms by content digest. It starts
// no process and writes no file.
package planner

import (
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// Graph is everything that an engine needs: the steps in order, inputs before users. It is read-only after Plan returns
// it. Its bytes do not depend on the run, the checkout path or the user.
type Graph struct {
	Steps  []*Step
	Images []*Image // in the order requested
	// Locals maps the NAME of "local://NAME" sources to build context directories. The name is the path relative to the
	// project directory; an absolute path outside the project directory is kept as it is.
	Locals map[string]Local
	// Layouts maps the oci.store attribute of sources to OCI image layout directories.
	Layouts map[string]Local
	// Files lists the Dockerfiles and ignore files that the plan read or found missing. Absolute paths, sorted.
	Files []string
	// Secrets and SSH map a target name to the secrets and SSH agents of its steps. They are not part of any digest.
	Secrets map[string][]config.Secret
	SSH     map[string][]config.SSH
	// Bases lists the images that targets are built on or copy from, sorted by reference.
	Bases []BaseUse
	// Sources lists the git repositories and HTTP files that a lock can pin, sorted by key.
	Sources []SourceUse
	// Declared counts the steps of all targets and platforms before merging.
	Declared int
	Warnings []Warning
	// OwnerChecks maps a Dockerfile, as in Location, to what it says about unknown owners. Defaults are left out.
	OwnerChecks map[string]OwnerCheck
}

// Local is a directory that steps read in place. The ignore patterns are attributes of the source op
// (local.excludepatterns, as in BuildKit), because two targets may ignore different files of one directory.
type Local struct {
	Dir string // absolute
	URL string `json:",omitempty"` // where the directory was downloaded from, without a password, or ""
}

// Step is one vertex of the graph. Digest is the digest of the canonical Op, whose inputs are the Digests of other
// steps. The fields below Inputs are not hashed, except Test: the digest of a test step also covers its definition.
type Step struct {
	Digest digest.Digest
	Op     *pb.Op // read-only; Op.Inputs[i] is Inputs[i]
	Inputs []Edge

	Name      string // display name, such as "[api build 2/4] RUN make"
	Own       string // display name without the targets: "[build 2/4] RUN make"
	Source    []Location
	Targets   []string // that need the step: the requested ones in order, then those that are only linked
	NoCache   bool     // no-cache or no-cache-filter of any of its targets forces it to run
	Resources *pb.LinuxResources
	Test      *Test // set for a test of an image
}

// Edge is one output of a step. The zero Edge is scratch, an empty file system.
type Edge struct {
	Step  *Step
	Index int
}

// Location is a range of lines in a Dockerfile.
type Location struct {
	File  string `json:"file"` // relative to the project directory if below it
	Start int    `json:"line,omitempty"`
	End   int    `json:"endLine,omitempty"` // lines from 1, inclusive
}

// Image is one platform of one requested target.
type Image struct {
	Target   string
	Platform ocispecs.Platform
	// MultiPlatform reports whether the target has several platforms, whose images are combined into one index, or
	// BUILDKIT_MULTI_PLATFORM requests an index.
	MultiPlatform bool
	Root          Edge
	// Config is the image config that the frontend created: a Docker OCI image whose rootfs lists only the layers of
	// the base. The engine that assembles the image adds the new layers and aligns the history.
	Config      []byte
	Tags        []string
	Annotations []string
	Outputs     []config.Attrs
	// Tests must all pass before any output of the target is written.
	Tests []*Step
	// Base is the name and digest of the base image of the final stage, or empty.
	Base Base
	// Provenance holds the facts for a provenance attestation; nil if none is requested.
	Provenance *Provenance
	// SBOM is the output to which the scanner writes the SBOM; nil if none is requested.
	SBOM *Edge
	// Epoch is the value of the SOURCE_DATE_EPOCH build argument, or nil if it is not set.
	Epoch *time.Time
}

// Base is the base image of a build.
type Base struct {
	Ref    string // as resolved: docker.io/library/python:3.8-alpine
	Digest digest.Digest
}

// Warning is a finding of the frontend's linter or of the planner. It never stops a build.
type Warning struct {
	Target      string
	Rule        string // the linter's rule name, or ""
	Message     string
	Description string
	URL         string
	Location    Location
}

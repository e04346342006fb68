// Package config reads everything that a person writes or commits for a build: project files now, bake.lock beside
// them. It turns them into one immutable Project, or into diagnostics that name a place. It imports nothing of ours.
package config

// Project is the evaluated content of all project files of one invocation. It is never written after Load returned it.
type Project struct {
	// Dir is the absolute directory that relative paths of targets refer to.
	Dir string
	// Files are the project files that were read, in the order of precedence, as the user would name them.
	Files []string
	// Included are the files that compose files include or extend, absolute; there may be others among them that these name.
	Included []string
	// Targets holds every target that was evaluated, by name: the requested ones and all that they link to.
	Targets map[string]*Target
	// Groups holds the groups by name, members in the written order.
	Groups map[string]*Group
	// Bases, Policies, Registries and Engines are the blocks of these kinds, by label.
	Bases      map[string]Base
	Policies   map[string]Policy
	Registries map[string]Registry
	Engines    map[string]Engine
	// Requested lists the requested targets once each, in the requested order, with groups and patterns expanded.
	Requested []string
	// RequestedNames lists the requested names once each, with patterns expanded but groups kept. The group "default"
	// is replaced by its members.
	RequestedNames []string
}

// Group is a named list of targets or groups.
type Group struct {
	Name        string
	Description string
	Targets     []string
}

// Range is where something stands in a project file. The zero Range is unknown.
type Range struct {
	File      string
	Line, Col int // from 1
}

// Target is one image to build: the mirror of the schema's attributes, evaluated. Paths are as written and relative
// to Project.Dir (Dockerfile: relative to the context). The empty value of an attribute means "not set" unless said.
type Target struct {
	Name        string
	Description string

	Context          string            // "." when not set; a path or URL
	Contexts         map[string]string // name -> path, target:NAME, docker-image://REF, oci-layout://DIR, URL
	Dockerfile       string            // "Dockerfile" when not set
	DockerfileInline *string           // nil when not set
	Stage            string            // attribute "target": the Dockerfile stage to build
	Args             map[string]string
	Labels           map[string]string
	Annotations      []string // "[levels:]key=value"
	Tags             []string
	Platforms        []string
	Outputs          []Attrs // each with "type"
	CacheFrom        []Attrs
	CacheTo          []Attrs
	Attest           []Attrs
	Secrets          []Secret
	SSH              []SSH
	NoCache          *bool
	NoCacheFilter    []string
	Pull             *bool
	Network          string // "", "default", "none", "host"
	ShmSize          string // "128mb"; "" is the default
	Ulimits          []string
	ExtraHosts       map[string]string
	Resources        map[string]string // memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, cpuset-mems
	Entitlements     []string
	Call             string
	Policy           []Attrs
	Tests            []Test // in the order in which they are written

	// Ranges says where each attribute that was set was last written, by attribute name; "" is the block itself.
	Ranges map[string]Range
}

// Attrs is a list of key=value pairs such as an output: {"type": "oci", "dest": "out.tar"}.
type Attrs map[string]string

// Secret is where the value of a build secret comes from: a file or an environment variable of the caller.
type Secret struct {
	ID  string
	Src string // file, relative to Project.Dir
	Env string // variable name; used when Src is empty
}

// SSH is an agent socket, or keys, that RUN --mount=type=ssh may use.
type SSH struct {
	ID    string
	Paths []string // empty: the caller's SSH_AUTH_SOCK
}

// Package config reads what a user writes or commits for a build: project files and bake.lock. Load turns project
// files into one immutable Project, or into Diagnostics with a position. The package imports no other package of this
// module.
package config

// Project is the evaluated content of all project files of one invocation. It must not be changed after Load returns
// it.
type Project struct {
	// Dir is the absolute directory to which the paths of targets are relative.
	Dir string
	// Files lists the project files that were read, by increasing precedence, as the user would name them.
	Files []string
	// Included lists the absolute paths of files that compose files may include or extend. It never misses one but may
	// list too many: see pathRecorder.files.
	Included []string
	// Named lists the absolute paths of the local files that the user named. Read lists those of all other files of
	// this machine that were read to evaluate the project: files with a usual name, included files and files of
	// variables.
	Named, Read []string
	// Remote is the URL of a remote definition, as the user wrote it; "" if the project is on this machine.
	Remote string
	// Root is the root of the git repository that contains Dir; "" if there is none.
	Root string
	// Targets holds every evaluated target by name: the requested ones and those they link to, directly or not.
	Targets map[string]*Target
	// Groups holds the groups by name, with their members in the written order.
	Groups map[string]*Group
	// Bases, Policies, Registries and Engines hold the blocks of these kinds by label.
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

// Range is a position in a project file. The zero Range means unknown.
type Range struct {
	File      string
	Line, Col int // from 1
}

// Target is one image to build: the evaluated attributes of the schema. Paths are as written and relative to
// Project.Dir, except Dockerfile, which is relative to the context. An empty field is not set, unless it says
// otherwise.
type Target struct {
	Name        string
	Description string

	Context          string            // a path or URL; never empty, the default is "."
	Contexts         map[string]string // name -> path, target:NAME, docker-image://REF, oci-layout://DIR, URL
	Dockerfile       string            // never empty, the default is "Dockerfile"
	DockerfileInline *string           // nil when not set
	Stage            string            // attribute "target": the Dockerfile stage to build
	Args             map[string]string
	Labels           map[string]string
	Annotations      []string // "[levels:]key=value"
	Tags             []string
	Platforms        []string
	Outputs          []Attrs // each has a "type"
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
	// memory, memory-swap, cpu-shares, cpu-period, cpu-quota, cpuset-cpus, cpuset-mems
	Resources    map[string]string
	Entitlements []string
	Call         string
	Policy       []Attrs
	Tests        []Test // in the written order
	// Structures lists the files of this machine from which some of the tests were read.
	Structures []string

	// Ranges holds the position of the last definition of each attribute that is set, by name; "" is the block itself.
	Ranges map[string]Range
}

// Attrs is a set of KEY=VALUE pairs, such as an output: {"type": "oci", "dest": "out.tar"}.
type Attrs map[string]string

// Secret is the source of a build secret: an environment variable of the caller if Env is set, else a file.
type Secret struct {
	ID  string
	Src string // file, relative to Project.Dir
	Env string // name of the variable
	// Implied is set if the project file names no source. Then Env or Src is the ID.
	Implied bool
}

// SSH is an agent socket, or a list of keys, for RUN --mount=type=ssh.
type SSH struct {
	ID    string
	Paths []string // empty: the caller's SSH_AUTH_SOCK
}

package config

// kind is the type of an attribute's value.
type kind int

const (
	kindString   kind = iota
	kindBool          // true, false, or either as a string
	kindStrings       // list of strings
	kindMap           // map of strings; null entries are dropped
	kindAttrs         // list of key=value lists: a CSV string or an object each
	kindSecrets       // list of {id, src, env}
	kindSSH           // list of id[=path,path] or {id, paths}
	kindTests         // list of tests, or a mapping from their names
	kindCommand       // a list of arguments, or one string for the shell
	kindCommands      // list of commands
	kindConfig        // the expected config of an image
	kindAny           // evaluated by the code that uses it
)

// merge is the rule by which a value is combined with one of higher precedence; see attribute.combine.
type merge int

const (
	mergeReplace merge = iota
	mergeAppend        // append, without duplicates
	mergeRepeat        // append
	mergeKeys          // replace by key of the map
	mergeID            // replace by ID, type or name, in place
)

// attribute is one row of a table of attributes. Parsing, merging, --set, the JSON Schema and the README are derived
// from these tables.
type attribute struct {
	name  string
	kind  kind
	merge merge
	set   string // alternative name in --set
	doc   string
}

// attributes returns the schema of a target, in the order of the README.
func attributes() []attribute {
	return []attribute{
		{"description", kindString, mergeReplace, "", "The purpose of the target, shown by `--list`."},
		{"inherits", kindStrings, mergeRepeat, "", "Targets to inherit attributes from. Later ones take precedence."},
		{"context", kindString, mergeReplace, "", "Directory or URL of the build context; `.` by default."},
		{"contexts", kindMap, mergeKeys, "", "Named contexts: a path, `target:NAME`, `docker-image://REF`, " +
			"`oci-layout://DIR` or a URL. An empty value removes an inherited one."},
		{"dockerfile", kindString, mergeReplace, "",
			"Path of the Dockerfile, relative to the context; `Dockerfile` by default."},
		{"dockerfile-inline", kindString, mergeReplace, "", "The content of the Dockerfile."},
		{"target", kindString, mergeReplace, "", "The stage of the Dockerfile to build; the last one by default."},
		{"args", kindMap, mergeKeys, "arg", "Build arguments."},
		{"labels", kindMap, mergeKeys, "label", "Labels of the image."},
		{"annotations", kindStrings, mergeAppend, "annotation", "OCI annotations: `[LEVELS:]KEY=VALUE`."},
		{"tags", kindStrings, mergeReplace, "tag", "Names of the image."},
		{"platforms", kindStrings, mergeReplace, "platform", "Platforms to build for, such as `linux/arm64`; " +
			"the local platform by default."},
		{"output", kindAttrs, mergeReplace, "", "Destinations of the result, such as `type=oci,dest=out.tar`; " +
			"the local store by default."},
		{"cache-from", kindAttrs, mergeAppend, "",
			"Remote caches to import: `type=registry,ref=NAME`, or `NAME` for short, " +
				"or `type=local,src=DIR`."},
		{"cache-to", kindAttrs, mergeReplace, "", "Remote caches to export to: `type=registry,ref=NAME` or " +
			"`type=local,dest=DIR`. `mode=max` exports all steps, `mounts=true` also cache mounts."},
		{"secret", kindSecrets, mergeID, "secrets", "Secrets for RUN steps: `id=ID,src=FILE` or `id=ID,env=VARIABLE`."},
		{"ssh", kindSSH, mergeID, "", "SSH agents or keys for RUN steps: `ID[=PATH,PATH]`."},
		{"attest", kindAttrs, mergeID, "", "Attestations: `type=sbom`, `type=provenance`."},
		{"no-cache", kindBool, mergeReplace, "",
			"Run every step of this target, even if it is cached, and start its cache mounts empty."},
		{"no-cache-filter", kindStrings, mergeAppend, "",
			"Stages whose steps run even if they are cached, with empty cache mounts."},
		{"pull", kindBool, mergeReplace, "",
			"Resolve base images at the registry, even if they are in the local store."},
		{"network", kindString, mergeReplace, "", "Network of RUN steps: `default`, `none` or `host`."},
		{"shm-size", kindString, mergeReplace, "", "Size of /dev/shm in RUN steps."},
		{"ulimits", kindStrings, mergeAppend, "ulimit", "Limits of RUN steps: `NAME=SOFT[:HARD]`."},
		{"extra-hosts", kindMap, mergeKeys, "extra-host",
			"Additional lines of /etc/hosts in RUN steps: name to address."},
		{"resources", kindMap, mergeKeys, "resource", "CPU and memory limits of RUN steps."},
		{"entitlements", kindStrings, mergeAppend, "entitlement",
			"Permissions that the build needs: `network.host`, `security.insecure`."},
		{"call", kindString, mergeReplace, "",
			"The operation on the target: `build`, `check`, `outline` or `targets`."},
		{"policy", kindAttrs, mergeAppend, "", "Policies in Rego that the sources must satisfy."},
		{"test", kindTests, mergeID, "", "Tests that the image must pass before any tag moves: " +
			"`test \"NAME\" { … }` blocks in HCL, see below."},
	}
}

// schema holds the attributes of a target by name.
type schema map[string]attribute

func newSchema() schema {
	s := schema{}
	for _, a := range attributes() {
		s[a.name] = a
	}
	return s
}

// bySet returns the attribute with a name in --set. inherits and description cannot be set.
func (s schema) bySet(key string) (attribute, bool) {
	if a, ok := s[key]; ok {
		return a, key != "inherits" && key != "description"
	}
	for _, a := range s {
		if a.set != "" && a.set == key {
			return a, true
		}
	}
	return attribute{}, false
}

// setKeys returns the keys of --set, in no order.
func (s schema) setKeys() []string {
	all := []string{"push", "load"}
	for name := range s {
		if _, ok := s.bySet(name); ok {
			all = append(all, name)
		}
	}
	return all
}

// resourceNames returns the names of the resources, in the order of Docker's documentation.
func resourceNames() []string {
	return []string{"memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems"}
}

// names returns the attribute names, in no order.
func (s schema) names() []string {
	all := make([]string, 0, len(s))
	for name := range s {
		all = append(all, name)
	}
	return all
}

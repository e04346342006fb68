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
	kindCommand       // words, or one string for the shell
	kindCommands      // list of commands
	kindConfig        // what an image's config must say
	kindAny           // read by whoever needs it
)

// merge is what becomes of an attribute that a parent, an earlier block and a later one all set.
type merge int

const (
	mergeReplace merge = iota
	mergeAppend        // the later ones are added, without repetition
	mergeRepeat        // the later ones are added
	mergeKeys          // by key of the map
	mergeID            // by id, by type or by name: the same one is replaced in its place
)

// attribute is one row of the schema of a target: all that reading, --set, --print, the JSON Schema and the
// documentation know of it.
type attribute struct {
	name  string
	kind  kind
	merge merge
	set   string // other name in --set
	doc   string
}

// attributes is the schema of a target, in the order of the documentation.
func attributes() []attribute {
	return []attribute{
		{"description", kindString, mergeReplace, "", "What the target is for, shown by --list."},
		{"inherits", kindStrings, mergeRepeat, "", "Targets whose attributes this one starts from, the last of them first in rank."},
		{"context", kindString, mergeReplace, "", "Directory or URL of the build context; \".\" when not set."},
		{"contexts", kindMap, mergeKeys, "", "Named contexts: a path, `target:NAME`, `docker-image://REF`, `oci-layout://DIR` or a URL each. An empty one takes an inherited one away."},
		{"dockerfile", kindString, mergeReplace, "", "Path of the Dockerfile, relative to the context; `Dockerfile` when not set."},
		{"dockerfile-inline", kindString, mergeReplace, "", "The Dockerfile itself."},
		{"target", kindString, mergeReplace, "", "The stage of the Dockerfile to build; the last one when not set."},
		{"args", kindMap, mergeKeys, "arg", "Build arguments."},
		{"labels", kindMap, mergeKeys, "label", "Labels of the image."},
		{"annotations", kindStrings, mergeAppend, "annotation", "OCI annotations, `[LEVELS:]KEY=VALUE` each."},
		{"tags", kindStrings, mergeReplace, "tag", "Names of the image."},
		{"platforms", kindStrings, mergeReplace, "platform", "Platforms to build for, such as `linux/arm64`; this machine's when not set."},
		{"output", kindAttrs, mergeReplace, "outputs", "Where the result goes: `type=oci,dest=out.tar` and the like; the local store when not set."},
		{"cache-from", kindAttrs, mergeAppend, "", "Caches of other machines to read: `type=registry,ref=NAME`, for which `NAME` is short, or `type=local,src=DIR`."},
		{"cache-to", kindAttrs, mergeReplace, "", "Caches to write: `type=registry,ref=NAME` or `type=local,dest=DIR`, with `mode=max` for all steps and `mounts=true` for cache mounts."},
		{"secret", kindSecrets, mergeID, "secrets", "Secrets that steps may mount: `id=ID,src=FILE` or `id=ID,env=VARIABLE`."},
		{"ssh", kindSSH, mergeID, "", "SSH agents or keys that steps may use: `ID[=PATH,PATH]`."},
		{"attest", kindAttrs, mergeID, "", "Attestations: `type=sbom`, `type=provenance`."},
		{"no-cache", kindBool, mergeReplace, "", "Run every step of this target, whatever the cache holds."},
		{"no-cache-filter", kindStrings, mergeAppend, "", "Stages whose steps run in any case."},
		{"pull", kindBool, mergeReplace, "", "Ask the registry for the bases in any case."},
		{"network", kindString, mergeReplace, "", "Network of RUN steps: `default`, `none` or `host`."},
		{"shm-size", kindString, mergeReplace, "", "Size of /dev/shm in RUN steps."},
		{"ulimits", kindStrings, mergeAppend, "ulimit", "Limits of RUN steps: `NAME=SOFT[:HARD]`."},
		{"extra-hosts", kindMap, mergeKeys, "extra-host", "More lines of /etc/hosts in RUN steps: name to address."},
		{"resources", kindMap, mergeKeys, "resource", "Limits of processor and memory of RUN steps."},
		{"entitlements", kindStrings, mergeAppend, "entitlement", "What the build may need: `network.host`, `security.insecure`."},
		{"call", kindString, mergeReplace, "", "What to do with the target: `build`, `check`, `outline` or `targets`."},
		{"policy", kindAttrs, mergeAppend, "", "Policies that the sources must satisfy."},
		{"test", kindTests, mergeID, "", "Tests that the image must pass before any tag moves: `test \"NAME\" { … }` blocks in HCL, see below."},
	}
}

// schema is the attributes by name.
type schema map[string]attribute

func newSchema() schema {
	s := schema{}
	for _, a := range attributes() {
		s[a.name] = a
	}
	return s
}

// bySet finds an attribute by its name in --set.
func (s schema) bySet(key string) (attribute, bool) {
	if a, ok := s[key]; ok {
		return a, key != "inherits" && key != "description"
	}
	for _, a := range s {
		if a.set == key {
			return a, true
		}
	}
	return attribute{}, false
}

// names lists the attribute names, in no order.
func (s schema) names() []string {
	all := make([]string, 0, len(s))
	for name := range s {
		all = append(all, name)
	}
	return all
}

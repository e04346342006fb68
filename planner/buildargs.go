package planner

import (
	"fmt"
	"strconv"

	"github.com/bakebuild/bake/config"
)

// idleArg is a build argument that BuildKit documents and that has no effect here.
type idleArg struct {
	name string
	// off reports whether the value asks for what happens anyway.
	off     func(value string) bool
	instead string
}

// idleArgs lists the build arguments of BuildKit that have no effect. All others that it documents work:
// BUILDKIT_CACHE_MOUNT_NS, BUILDKIT_CONTEXT_KEEP_GIT_DIR, BUILDKIT_DOCKERFILE_CHECK, BUILDKIT_MULTI_PLATFORM,
// BUILDKIT_SANDBOX_HOSTNAME, BUILDKIT_SBOM_SCAN_CONTEXT, BUILDKIT_SBOM_SCAN_STAGE, BUILDKIT_SYNTAX,
// SOURCE_DATE_EPOCH, the platform arguments and the proxies. TestBuildKitArgs has them all.
func idleArgs() []idleArg {
	empty := func(v string) bool { return v == "" }
	notTrue := func(v string) bool {
		on, err := strconv.ParseBool(v)
		return err != nil || !on
	}
	return []idleArg{
		{"BUILDKIT_BUILD_NAME", empty, "builds have no name in the history"},
		{"BUILDKIT_GIT_ADVICE", notTrue, "git's advice is not shown"},
		{"BUILDKIT_INLINE_CACHE", notTrue,
			"images hold no cache; use cache-to = [\"type=registry,ref=NAME\"] and cache-from = [\"NAME\"]"},
	}
}

// warnOfArgs warns of build arguments of a target that have no effect.
func (d *planned) warnOfArgs(t *config.Target) {
	for _, a := range idleArgs() {
		if v, ok := t.Args[a.name]; ok && !a.off(v) {
			d.warnings = append(d.warnings, Warning{
				Target: t.Name, Rule: "IdleBuildArg",
				Message: fmt.Sprintf("target %s: args: %s=%s has no effect: %s", t.Name, a.name, v, a.instead),
			})
		}
	}
}

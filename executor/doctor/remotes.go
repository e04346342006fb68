package doctor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/docker"
	"github.com/bakebuild/bake/executor/registry"
)

// maxPlaces bounds the registries that are checked: a project file may name any number.
const maxPlaces = 32

// maxSkew is how far the clock of a registry may be from this machine's before its tokens and certificates fail.
const maxSkew = 5 * time.Minute

// pinger is the part of registry.Client that the checks use.
type pinger interface {
	Places(images []string) []registry.Place
	Ping(ctx context.Context, p registry.Place) (registry.Pong, error)
}

// registries returns a check for each registry and mirror that the configuration names, and for those of images.
func registries(c pinger, images []string, offline bool) []Check {
	var all []Check
	places := c.Places(images)
	for i, p := range places {
		if i == maxPlaces {
			rest := skipf("%d more are not checked", len(places)-maxPlaces)
			all = append(all, Check{
				Name: "registry", Subject: "others", Run: func(context.Context) Finding { return rest },
			})
			break
		}
		name := "registry"
		if p.MirrorOf != "" {
			name = "mirror"
		}
		all = append(all, Check{Name: name, Subject: p.Host, Area: Network, Run: func(ctx context.Context) Finding {
			if offline {
				return skipf("--offline is set")
			}
			f := ping(ctx, c, p)
			if f.Status == Failure && ctx.Err() == nil && p.Prefix != "" && mirrored(ctx, c, p.Prefix, places) {
				f.Status = Warning
				f.Detail += "; its mirrors are used"
			}
			return f
		}})
	}
	return all
}

// mirrored reports whether a mirror of a prefix answers.
func mirrored(ctx context.Context, c pinger, prefix string, places []registry.Place) bool {
	return slices.ContainsFunc(places, func(m registry.Place) bool {
		if m.MirrorOf != prefix {
			return false
		}
		_, err := c.Ping(ctx, m)
		return err == nil
	})
}

func ping(ctx context.Context, c pinger, p registry.Place) Finding {
	pong, err := c.Ping(ctx, p)
	if err != nil {
		return pingFault(ctx, p, err)
	}
	if skew := time.Since(pong.Clock).Abs(); !pong.Clock.IsZero() && skew > maxSkew {
		return warn(fmt.Sprintf("its clock differs from this machine's by %s, so that tokens may not be valid",
			skew.Round(time.Minute)), "set the clock of this machine, for example by starting an NTP service")
	}
	text := "it answers"
	if pong.Account != "" {
		text += ", and accepts the credentials of " + pong.Account
	}
	if p.MirrorOf != "" {
		text += "; mirror of " + p.MirrorOf
	}
	return okf("%s", text)
}

// pingFault returns the finding for a registry that does not answer, or does not accept the user's credentials. Builds
// do without a mirror, and may not use a registry that no configuration names.
func pingFault(ctx context.Context, p registry.Place, err error) Finding {
	f := fail(late(ctx, err), "check the network, or use a mirror (registries.conf)")
	var e *registry.Error
	if errors.As(err, &e) && ctx.Err() == nil {
		f.Detail, f.Fix = e.Reason, e.Hint
	}
	switch {
	case p.MirrorOf != "":
		f.Status = Warning
		f.Detail += "; the other sources of " + p.MirrorOf + " are used"
	case !p.Configured:
		f.Status = Warning
	}
	return f
}

// dockerEngine checks the Docker engine that outputs of type=docker use.
func dockerEngine(env func(string) string) Check {
	return Check{Name: "docker", Area: Network, Run: func(ctx context.Context) Finding {
		e, configured, err := docker.Probe(ctx, env)
		var known *docker.Error
		switch {
		case err == nil:
			store := "its classic image store"
			if e.Containerd {
				store = "the containerd image store"
			}
			return okf("version %s at %s, with %s", e.Version, e.Host, store)
		case !configured:
			return skipf("no engine at %s; only outputs of type=docker need one", e.Host)
		case errors.As(err, &known):
			err = known
		}
		f := warn(err.Error(), "")
		if env("DOCKER_HOST") != "" || env("DOCKER_CONTEXT") != "" {
			f.Status = Failure
		}
		return f
	}}
}

// engines returns a check for each BuildKit daemon that builds would use.
func engines(all []buildkitd.Builder, offline bool) []Check {
	var checks []Check
	for _, b := range all {
		checks = append(checks, Check{
			Name: "engine", Subject: safeAddress(b.Address), Area: Network, Run: func(ctx context.Context) Finding {
				if offline {
					return skipf("--offline is set")
				}
				d, err := buildkitd.Probe(ctx, b.Address)
				var known *buildkitd.Error
				switch {
				case err == nil:
				case ctx.Err() != nil:
					return fail(late(ctx, err), "start buildkitd there, or correct the address of the engine")
				case errors.As(err, &known):
					return fail(known.Err.Error(), "")
				default:
					return fail(err.Error(), "")
				}
				text := "BuildKit"
				if d.Version != "" {
					text += " " + d.Version
				}
				return okf("%s for %s", text, strings.Join(d.Platforms, ", "))
			},
		})
	}
	return checks
}

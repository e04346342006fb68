package main

import (
	"errors"
	"net"
	"os/exec"
	"strings"
	"syscall"

	"github.com/bakebuild/bake/executor/buildkitd"
	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/docker"
	"github.com/bakebuild/bake/executor/embedded/fetch"
	"github.com/bakebuild/bake/executor/embedded/idmap"
	"github.com/bakebuild/bake/executor/embedded/sandbox"
	"github.com/bakebuild/bake/executor/registry"
)

// doctorHint is printed after errors that come from the environment.
const doctorHint = "to check what this machine lacks, run `bake doctor`"

// fromEnvironment reports whether an error comes from this machine, the network or a service, so that bake doctor can
// say more. An error that the user's files or arguments cause is not one, even if a registry or an engine reports it.
func fromEnvironment(err error) bool {
	var (
		unavailable *sandbox.UnavailableError
		store       *cache.Error
		reg         *registry.Error
		engine      *docker.Error
		daemon      *buildkitd.Error
		fetched     *fetch.Error
	)
	switch {
	case errors.As(err, &unavailable), errors.As(err, &store):
		return true
	case errors.As(err, &reg):
		return reg.Environment()
	case errors.As(err, &engine):
		return engine.Unreachable
	case errors.As(err, &daemon):
		return daemon.Unreachable()
	case errors.As(err, &fetched):
		var dns *net.DNSError
		var connection *net.OpError
		return errors.As(err, &dns) || errors.As(err, &connection) || errors.Is(err, exec.ErrNotFound)
	}
	// The process of a step reports an id that it lacks as text.
	return limitReached(err) || errors.Is(err, exec.ErrNotFound) || strings.Contains(err.Error(), idmap.Remedy)
}

// limitReached reports whether this process may not open more files, start more processes or use more memory.
func limitReached(err error) bool {
	for _, limit := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOMEM} {
		if errors.Is(err, limit) {
			return true
		}
	}
	return false
}

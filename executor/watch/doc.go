// Package watch builds a project again whenever a file that it reads changes.
//
// It finds out from the plan what a build reads, watches the folders in which that can change, and names the targets
// that a change affects. Changed paths only start a round and are displayed; fingerprints alone decide what is built.
// How it is built and how the user sees it are up to the caller, a Project.
//
// It may import config, planner, executor/affected for the fingerprints of targets, and executor/tree for build
// contexts. It knows no engine.
package watch

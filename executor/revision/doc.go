// Package revision shows a commit of a git repository without checking it out: as a view over the working tree, which
// reads every file that is the same from the disk. The affected package compares two such views.
//
// It runs the git program. It may import config, for the interface of a view, and executor/tree, for that of a patch
// over a build context. It knows neither plans nor engines.
package revision

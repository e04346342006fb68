// Package keys computes what the keys of steps hold: the canonical form of each operation, the files that it reads
// from build contexts, and the fingerprints of whole graphs.
//
// It runs nothing, fetches nothing and needs no cache. It builds on every system, since a client without an engine
// plans and explains too. It may import config, planner, executor/cache/key and executor/tree.
package keys

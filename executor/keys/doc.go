// Package keys computes what the keys of steps hold: the canonical form of each operation, the files that it reads
// from build contexts, and the fingerprints of whole graphs.
//
// An engine builds the cache key of a step from the parts here: it combines Own with the ids of Whole inputs and with
// ids or digests of Reads, see keyed.go of executor/embedded. A fingerprint is not a cache key: it needs no engine, and
// no entry is stored under it.
//
// The package runs nothing, fetches nothing and needs no cache. It builds on every system, since a client without an
// engine plans and explains too. It may import config, planner, executor/cache/key and executor/tree.
package keys

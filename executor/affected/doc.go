// Package affected compares two git revisions of a project and names the targets whose images the change can touch.
//
// It plans both revisions and compares the fingerprints of their targets. A fingerprint covers everything that an image
// depends on: the steps, the content that they read, and what is written about the image. The rules about paths are
// those of the cache keys; this package has none of its own, so it cannot disagree with a build.
//
// It may import config, planner, executor/revision and executor/tree. What reads the store or an engine's keys comes
// from the caller, as Sources.
package affected

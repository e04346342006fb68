// Package layerfs reads stacked image layers as one file tree, as overlayfs would show them, without mounting
// anything.
//
// It is for Linux, and it may import executor/tree only.
package layerfs

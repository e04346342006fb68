// Package layerfs reads stacked image layers as one file tree, as overlayfs would show them, without mounting
// anything.
//
// The package is for Linux. Of this module it may import executor/tree only.
package layerfs

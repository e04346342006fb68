// Package layers turns layer tars into directories in overlayfs form and back. A tar that is read is hostile input; a
// tar that is written has the same bytes for the same files on every machine.
//
// The directory form is what overlayfs mounts: a removed path is a character device 0:0, a directory that hides what
// lies below it has the xattr trusted.overlay.opaque (user.overlay.opaque in a user namespace).
package layers

// The names that the OCI layer format gives a meaning.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	metaPrefix     = ".wh..wh." // of other aufs bookkeeping, which is skipped
	paxXattr       = "SCHILY.xattr."
)

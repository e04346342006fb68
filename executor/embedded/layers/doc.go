// Package layers converts image layers between the tar that a registry stores and the directory that overlayfs mounts.
// It treats every tar that it reads as hostile. A tar that it writes has the same bytes for the same files on every
// machine.
//
// # Whiteouts and opaque directories
//
// A layer must record what it removes from the layers below, and the two encodings do so differently. In a tar, the
// empty file ".wh.NAME" removes NAME, and ".wh..wh..opq" in a directory hides everything that lower layers have in it.
// In a directory for overlayfs, a removed path is a character device 0:0, and a directory that hides the lower one has
// the attribute trusted.overlay.opaque=y (user.overlay.opaque=y in a user namespace).
//
// The invariant: both encodings hide the same lower paths, whatever the order of the entries in the tar. OCI applies
// whiteouts to lower layers only, so a marker never removes a file of its own layer. When a directory takes the place
// of a whiteout, it becomes opaque instead, since a path cannot be both. Attributes named *.overlay.* in a tar are
// dropped, so that a layer cannot hide or redirect paths on its own account. Otherwise files that an image removed
// would reappear, or a layer could show files of other layers at other paths.
//
// TestWhiteoutsInOverlay compares an unpacked layer with what the kernel shows, TestUnpackHostile has the markers in
// every order, and TestPackRefuses has what a tar cannot represent.
package layers

// The file names and attribute prefix that have a meaning in a layer tar.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	metaPrefix     = ".wh..wh." // other bookkeeping of aufs, which is skipped
	paxXattr       = "SCHILY.xattr."
)

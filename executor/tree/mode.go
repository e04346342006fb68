package tree

// The file types in Entry.Mode. They have Linux's values on every system, since digests and stored indexes hold them.
const (
	ModeType    = 0o170000 // the bits of the type
	ModeSocket  = 0o140000
	ModeLink    = 0o120000
	ModeRegular = 0o100000
	ModeBlock   = 0o060000
	ModeDir     = 0o040000
	ModeChar    = 0o020000
	ModePipe    = 0o010000

	ModeSetuid = 0o4000
	ModeSetgid = 0o2000
	ModeSticky = 0o1000
)

// Type returns the type bits of the mode.
func (e Entry) Type() uint32 { return e.Mode & ModeType }

// IsDir reports whether the entry is a directory.
func (e Entry) IsDir() bool { return e.Type() == ModeDir }

// IsRegular reports whether the entry is a regular file.
func (e Entry) IsRegular() bool { return e.Type() == ModeRegular }

// IsLink reports whether the entry is a symbolic link.
func (e Entry) IsLink() bool { return e.Type() == ModeLink }

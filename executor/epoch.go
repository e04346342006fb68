package executor

import (
	"archive/tar"
	"io"
	"time"
)

// DefaultEpoch returns the default time in images: 2000-01-01 UTC. It is the same on every machine, and after 1980, the
// first year that zip files can hold.
func DefaultEpoch() time.Time { return time.Unix(946684800, 0).UTC() }

// ClampTimes copies a tar and sets every later time to the epoch.
func ClampTimes(r io.Reader, w io.Writer, epoch time.Time) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		if err == io.EOF {
			return out.Close()
		}
		if err != nil {
			return err
		}
		if h.ModTime.After(epoch) {
			h.ModTime = epoch
		}
		h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

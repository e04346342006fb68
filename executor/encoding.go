package executor

import (
	"cmp"
	"fmt"
	"strconv"
	"time"
)

// LayerEncoding describes how layers are compressed and which times their files have. It is comparable: one layer in
// equal encodings has equal bytes. Keys of passed tests hold its fields in this order, printed with %v.
type LayerEncoding struct {
	Compression string // "gzip", "zstd" or "uncompressed"; "" keeps base layers as they are and is gzip for others
	Level       int    // 0 is the default
	Force       bool   // base layers too
	KeepTimes   bool   // files keep their own times
	ClampTimes  bool   // only times after the epoch change, also in layers whose times would be set
	Epoch       string // the epoch in seconds since 1970; "" is that of the image
}

// maxEpoch is the last second of the year 9999, which RFC 3339 can express.
const maxEpoch = 253402300799

// EpochOr returns the epoch, or the given one if the encoding has none.
func (e LayerEncoding) EpochOr(image time.Time) time.Time {
	if n, err := strconv.ParseInt(e.Epoch, 10, 64); err == nil {
		return time.Unix(n, 0).UTC()
	}
	return image
}

// String returns the fields. Without an epoch it equals that of versions without the field, since keys hold it.
func (e LayerEncoding) String() string {
	s := fmt.Sprintf("{%s %d %t %t %t", e.Compression, e.Level, e.Force, e.KeepTimes, e.ClampTimes)
	if e.Epoch != "" {
		s += " " + e.Epoch
	}
	return s + "}"
}

// validate checks the compression and its level.
func (e LayerEncoding) validate(docker bool) error {
	top := 9
	switch e.Compression {
	case "", "gzip", "uncompressed":
	case "zstd":
		top = 22
		if docker {
			return fmt.Errorf("compression=zstd needs oci-mediatypes=true")
		}
	case "estargz":
		return fmt.Errorf("compression=estargz is not supported; use gzip, zstd or uncompressed")
	default:
		return fmt.Errorf("unknown compression %q; use gzip, zstd or uncompressed", e.Compression)
	}
	if e.Level < 0 || e.Level > top {
		return fmt.Errorf("compression-level=%d is not in 0 to %d", e.Level, top)
	}
	return nil
}

func (e LayerEncoding) compare(f LayerEncoding) int { return cmp.Compare(e.String(), f.String()) }

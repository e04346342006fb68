package executor

import (
	"cmp"
	"fmt"
)

// LayerEncoding describes how layers are compressed and which times their files have. It is comparable: one layer in
// equal encodings has equal bytes. Keys of passed tests hold its fields in this order, printed with %v.
type LayerEncoding struct {
	Compression string // "gzip", "zstd" or "uncompressed"; "" keeps base layers as they are and is gzip for others
	Level       int    // 0 is the default
	Force       bool   // base layers too
	KeepTimes   bool   // files keep their own times
	ClampTimes  bool   // only times after the epoch change, also in layers whose times would be set
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

func (e LayerEncoding) compare(f LayerEncoding) int { return cmp.Compare(fmt.Sprint(e), fmt.Sprint(f)) }

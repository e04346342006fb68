package executor

import (
	"cmp"
	"fmt"
)

// LayerForm says how layers are to be compressed and what times they show. It is comparable: equal forms of one layer
// have equal bytes.
type LayerForm struct {
	Compression string // "", "gzip", "zstd", "uncompressed"; "" keeps what base layers have and means gzip for others
	Level       int    // 0 is the default
	Force       bool   // base layers too
	KeepTimes   bool   // files keep their own times
	ClampTimes  bool   // only times after the epoch are changed, whatever made the layer
}

func (f LayerForm) validate(docker bool) error {
	top := 9
	switch f.Compression {
	case "", "gzip", "uncompressed":
	case "zstd":
		top = 22
		if docker {
			return fmt.Errorf("compression=zstd needs oci-mediatypes=true")
		}
	case "estargz":
		return fmt.Errorf("compression=estargz is not supported: use gzip, zstd or uncompressed")
	default:
		return fmt.Errorf("unknown compression %q: use gzip, zstd or uncompressed", f.Compression)
	}
	if f.Level < 0 || f.Level > top {
		return fmt.Errorf("compression-level=%d is not in 0 to %d", f.Level, top)
	}
	return nil
}

func (f LayerForm) compare(g LayerForm) int { return cmp.Compare(fmt.Sprint(f), fmt.Sprint(g)) }

package embedded

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/executor/embedded/layers"
)

// CheckLayer compares the files of a layer with a recorded diff id; it is the Layer function of cache.CheckOptions.
// It returns a description of the damage, "" if there is none.
// For a layer that was never packed only the number of files is known, so it returns "".
func CheckLayer(ctx context.Context, dir string, meta cache.LayerMeta) (damage string, err error) {
	for _, p := range meta.Packed {
		times, ok := timesOf(p.Encoding)
		if !ok {
			continue
		}
		got, err := layers.Compress(ctx, dir, times, layers.Compression{Algorithm: layers.Uncompressed}, io.Discard)
		switch {
		case ctx.Err() != nil:
			return "", context.Cause(ctx)
		case err != nil:
			return fmt.Sprintf("its files cannot be packed: %v", err), nil
		case got.DiffID != p.DiffID:
			return fmt.Sprintf("its files have changed since it was created (diff id %s, now %s)",
				p.DiffID, got.DiffID), nil
		}
		return "", nil
	}
	return "", nil
}

// timesOf parses the times in an encoding's name, which packing.tar wrote.
func timesOf(encoding string) (layers.PackOptions, bool) {
	tar := encoding[strings.LastIndex(encoding, ", ")+1:]
	if tar = strings.TrimPrefix(tar, " "); tar == timesKept {
		return layers.PackOptions{}, true
	}
	for _, prefix := range []string{timesClamped, timesSet} {
		if text, ok := strings.CutPrefix(tar, prefix); ok {
			epoch, err := strconv.ParseInt(text, 10, 64)
			return layers.PackOptions{Epoch: time.Unix(epoch, 0).UTC(), Clamp: prefix == timesClamped}, err == nil
		}
	}
	return layers.PackOptions{}, false
}

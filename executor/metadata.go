package executor

import (
	"encoding/json"
	"strings"
)

// Metadata returns the content of --metadata-file in Docker Bake's format: one object for each target. failed has the
// status of targets without an image.
func Metadata(images []ImageResult, failed map[string]string) ([]byte, error) {
	out := map[string]map[string]any{}
	for _, i := range images {
		m := map[string]any{"status": "ok"}
		if i.Digest != "" {
			m["containerimage.digest"] = i.Digest
			m["containerimage.descriptor"] = map[string]any{
				"mediaType": i.MediaType, "digest": i.Digest, "size": i.Size,
			}
		}
		if i.ConfigDigest != "" {
			m["containerimage.config.digest"] = i.ConfigDigest
		}
		if len(i.Tags) > 0 {
			m["image.name"] = strings.Join(i.Tags, ",")
		}
		out[i.Target] = m
	}
	for target, status := range failed {
		out[target] = map[string]any{"status": status}
	}
	b, err := json.MarshalIndent(out, "", "  ")
	return append(b, '\n'), err
}

package registry

import (
	"encoding/json"
	"fmt"
)

// maxJSONValues bounds the values in a manifest, index or config. A text of three bytes for each can take a hundred
// times as much memory as it is long, so the size alone does not bound the memory.
const maxJSONValues = 200_000

// JSONValues returns an upper bound of the number of values in a JSON text. The text may be invalid. It takes no
// memory.
func JSONValues(raw []byte) int {
	n, quoted := 1, false
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case !quoted && (c == ',' || c == '[' || c == '{'):
			n++
		}
	}
	return n
}

// UnmarshalImage parses a manifest, index or config, which has at most maxJSONValues values.
func UnmarshalImage(raw []byte, into any) error {
	if n := JSONValues(raw); n > maxJSONValues {
		return fmt.Errorf("more than %d values", maxJSONValues)
	}
	return json.Unmarshal(raw, into)
}

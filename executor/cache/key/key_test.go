package key_test

import (
	"encoding/json"
	"testing"

	"github.com/bakebuild/bake/executor/cache/key"
)

// TestOf holds the hash and the JSON of parts: entries that are stored have both.
func TestOf(t *testing.T) {
	parts := []key.Part{{Name: "format", Digest: "1"}, {Name: "env A", Digest: "sha256:x", Value: "shown"}}
	const want = "sha256:c5d8575060595d086409e0077517100b484bd67396c76b4cf117fc5c6348c821"
	if got := key.Of(parts).String(); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	parts[1].Value = ""
	if got := key.Of(parts).String(); got != want {
		t.Errorf("a value for people changes the key to %s", got)
	}
	split := []key.Part{{Name: "format", Digest: "1env A"}, {Name: "", Digest: "sha256:x"}}
	if key.Of(split) == key.Of(parts) {
		t.Error("two lists of parts have one key")
	}
	raw, err := json.Marshal(parts[0])
	if err != nil || string(raw) != `{"Name":"format","Digest":"1"}` {
		t.Errorf("got %s, %v", raw, err)
	}
}

package embedded

import "testing"

// TestRawText: text and raw bytes are one to one.
func TestRawText(t *testing.T) {
	seen := map[string]string{}
	for _, raw := range []string{"", "e/app", "e/n\xff", "e/n\xfe", "e/n\ufffd", `"quoted"`, `"open`, "\"\xff",
		"link \x00\n\"", `e/\xff`} {
		text := textOf(raw)
		if got := rawOf(text); got != raw {
			t.Errorf("%q came back as %q", raw, got)
		}
		if other, ok := seen[text]; ok {
			t.Errorf("%q and %q are both %s", raw, other, text)
		}
		seen[text] = raw
	}
}

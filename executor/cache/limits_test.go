package cache

import "testing"

// TestParseSize checks decimal and binary units, and the limits of a size.
func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"512": 512, "20GB": 20e9, "20g": 20e9, "1.5GiB": 3 << 29, "2ki": 2048, "0": 0,
		"": -1, "GB": -1, "-1": -1, "20XB": -1, "99999999TB": -1, "inf": -1, "1GiGB": -1,
	} {
		got, err := ParseSize(text)
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

// TestParseLimit checks sizes, shares of a disk of 1000 bytes, and their defaults.
func TestParseLimit(t *testing.T) {
	for text, want := range map[string]int64{"": 7, "none": 0, "20%": 200, "300": 300, "0": -1, "0%": -1, "101%": -1,
		"x": -1} {
		got, err := parseLimit(text, 1000, 7)
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("parseLimit(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

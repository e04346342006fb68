package registry

import (
	"runtime"
	"strings"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestBombs: documents of the largest allowed size whose values would take hundreds of megabytes are refused, and
// reading them takes little memory.
func TestBombs(t *testing.T) {
	many := func(before, after string, size int) []byte {
		return []byte(before + strings.Repeat("{},", (size-len(before)-len(after))/3) + "{}" + after)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for name, parse := range map[string]func() error{
		"layers": func() error {
			raw := many(`{"schemaVersion":2,"config":{},"layers":[`, `]}`, maxManifest)
			_, err := parseDocument(raw, ocispecs.MediaTypeImageManifest)
			return err
		},
		"index": func() error {
			raw := many(`{"schemaVersion":2,"manifests":[`, `]}`, maxManifest)
			_, err := parseDocument(raw, ocispecs.MediaTypeImageIndex)
			return err
		},
		"history": func() error {
			_, _, err := layersOf(ocispecs.Manifest{}, many(`{"os":"linux","history":[`, `]}`, maxConfig))
			return err
		},
	} {
		if err := parse(); err == nil || !strings.Contains(err.Error(), "more than 200000 values") {
			t.Errorf("%s: %v", name, err)
		}
	}
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; used > 128<<20 {
		t.Errorf("%d MB were allocated", used>>20)
	}
	if n := JSONValues([]byte(`{"a":"x,[{\",","b":[1,2,{}]}`)); n != 7 {
		t.Errorf("%d values", n)
	}
}

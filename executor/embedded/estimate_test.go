package embedded

import (
	"testing"
	"time"
)

// TestExpected changes what a step stands on and what it runs: the time of its predecessor is known.
func TestExpected(t *testing.T) {
	s := newSite(t, map[string]string{"Dockerfile": "FROM scratch\nCOPY a /a\nRUN [\"write\", \"/x\", \"1\"]\n",
		"a": "1"})
	expected := func() time.Duration {
		t.Helper()
		steps, err := s.engine.Preview(t.Context(), s.graph(), s.opts)
		if err != nil {
			t.Fatal(err)
		}
		return steps[len(steps)-1].Expected
	}
	if d := expected(); d != 0 {
		t.Errorf("a step that never ran takes %s", d)
	}
	s.must("write /x 1")
	took := expected()
	if took <= 0 {
		t.Fatal("the time of a step that ran is not known")
	}
	for _, dockerfile := range []string{
		"FROM scratch\nCOPY a /b\nRUN [\"write\", \"/x\", \"1\"]\n",
		"FROM scratch\nCOPY a /a\nRUN [\"write\", \"/x\", \"2\"]\n",
	} {
		s.write(map[string]string{"Dockerfile": dockerfile})
		if d := expected(); d != took {
			t.Errorf("a changed step takes %s, want its predecessor's %s:\n%s", d, took, dockerfile)
		}
	}
}

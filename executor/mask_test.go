package executor

import (
	"strings"
	"testing"
)

func TestMasker(t *testing.T) {
	for _, c := range []struct {
		name    string
		secrets []string
		writes  []string
		want    string
	}{
		{"none", nil, []string{"a", "b"}, "ab"},
		{"whole", []string{"hunter2"}, []string{"pw=hunter2!\n"}, "pw=***!\n"},
		{"in pieces", []string{"hunter2"}, []string{"pw=hun", "t", "er2", "!"}, "pw=***!"},
		{"only a beginning", []string{"hunter2"}, []string{"hunt", "ing"}, "hunting"},
		{"a beginning at the end", []string{"hunter2"}, []string{"x hunt"}, "x hunt"},
		{"trailing newline of the secret file", []string{"hunter2\n"}, []string{"hunter2 ok"}, "*** ok"},
		{"too short to mask", []string{"abc"}, []string{"abcabc"}, "abcabc"},
		{"twice", []string{"hunter2"}, []string{"hunter2hunter2"}, "******"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var secrets [][]byte
			for _, s := range c.secrets {
				secrets = append(secrets, []byte(s))
			}
			var out strings.Builder
			m := NewMasker(secrets, func(p []byte) { out.Write(p) })
			for _, w := range c.writes {
				if n, err := m.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("write %q: %d, %v", w, n, err)
				}
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			if out.String() != c.want {
				t.Errorf("got %q, want %q", out.String(), c.want)
			}
		})
	}
}

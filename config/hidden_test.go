package config_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bakebuild/bake/config"
)

// TestHiddenText shows that no message quotes a file outside the project that the user neither named nor permitted.
func TestHiddenText(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("TOKEN: hunter2\n\nroot:hunter2:0:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"include":        "include = [\"OUTSIDE\"]\ntarget \"default\" {}\n",
		"include link":   "include = [\"link\"]\ntarget \"default\" {}\n",
		"structure":      "target \"default\" {\n  test = [{ structure = \"OUTSIDE\" }]\n}\n",
		"structure link": "target \"default\" {\n  test = [{ structure = \"link\" }]\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, "bake.hcl")
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(text, "OUTSIDE", outside)), 0o644); err != nil {
				t.Fatal(err)
			}
			load := func(allow []string, env map[string]string) string {
				t.Helper()
				grants, err := config.ParseGrants(allow)
				if err != nil {
					t.Fatal(err)
				}
				_, _, err = config.Load(context.Background(), config.Options{Dir: dir, Env: env, Grants: grants})
				if err == nil {
					t.Fatal("the file was accepted")
				}
				return err.Error()
			}
			if got := load(nil, nil); strings.Contains(got, "hunter2") || strings.Contains(got, "TOKEN") ||
				!strings.Contains(got, "add --allow fs.read=") {
				t.Errorf("without a grant:\n%s", got)
			}
			for _, got := range []string{
				load([]string{"fs.read=" + outside}, nil),
				load(nil, map[string]string{"BUILDX_BAKE_ENTITLEMENTS_FS": "0"}),
			} {
				if !strings.Contains(got, ":1:") {
					t.Errorf("with a grant:\n%s", got)
				}
			}
		})
	}
}

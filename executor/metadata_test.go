package executor_test

import (
	"encoding/json"
	"testing"

	"github.com/bakebuild/bake/executor"
)

func TestMetadata(t *testing.T) {
	res, _ := export(t, t.TempDir(), built(t, "api", "amd64"))
	b, err := executor.Metadata(res, map[string]string{"web": "failed"})
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if m["api"]["containerimage.digest"] != string(res[0].Digest) || m["web"]["status"] != "failed" ||
		m["api"]["image.name"] != "docker.io/library/api:latest,example.com/api:v1" {
		t.Errorf("metadata %s", b)
	}
}

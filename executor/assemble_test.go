package executor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

func TestAssembleConfig(t *testing.T) {
	b := built(t, "api", "amd64")
	layers, _ := b.Layers(context.Background(), executor.LayerEncoding{})
	img, err := executor.Assemble(b.Image, layers, executor.AssembleOptions{Epoch: time.Unix(1_000_000_000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Created  string
		History  []ocispecs.History
		RootFS   ocispecs.RootFS
		Variant2 map[string]bool
	}
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, h := range got.History {
		lines = append(lines, fmt.Sprintf("%s %s empty=%v", h.Created.Format("2006-01-02T15:04:05"), h.CreatedBy,
			h.EmptyLayer))
	}
	want := []string{
		"2020-01-02T03:04:05 ADD base empty=false", "2020-01-02T03:04:06 CMD sh empty=true",
		"2001-09-09T01:46:40 RUN make empty=false", "2001-09-09T01:46:40 WORKDIR / empty=true",
		"2001-09-09T01:46:40 ENV a=b empty=true", "2001-09-09T01:46:40 COPY x empty=false",
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	if got.Created != "2001-09-09T01:46:40Z" || len(got.RootFS.DiffIDs) != 3 || !got.Variant2["kept"] {
		t.Errorf("created %s, diff ids %v, kept %v", got.Created, got.RootFS.DiffIDs, got.Variant2)
	}
}

func TestHistoryHasALineForEachLayer(t *testing.T) {
	img := &planner.Image{Target: "x", Config: []byte(`{"os":"linux","architecture":"arm64"}`)}
	l := layerOf(t, map[string]string{"a": "1"})
	got, err := executor.Assemble(img, []v1.Layer{l}, executor.AssembleOptions{Docker: true})
	if err != nil {
		t.Fatal(err)
	}
	c, err := got.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if len(c.History) != 1 || c.History[0].Comment != "buildkit.exporter.image.v0" {
		t.Errorf("history %+v", c.History)
	}
	m, err := got.Manifest()
	if err != nil {
		t.Fatal(err)
	}
	if m.MediaType != types.DockerManifestSchema2 || m.Layers[0].MediaType != types.DockerLayer {
		t.Errorf("media types %s, %s", m.MediaType, m.Layers[0].MediaType)
	}
}

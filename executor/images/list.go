package images

import (
	"sort"
	"time"

	"github.com/containerd/platforms"

	"github.com/bakebuild/bake/executor/cache"
	"github.com/bakebuild/bake/planner"
)

// Row is one image of a list.
type Row struct {
	Name     string     `json:"name"`
	Digest   string     `json:"digest"`
	Kind     string     `json:"kind"` // built, or base
	Recorded *time.Time `json:"recorded,omitempty"`
	Size     int64      `json:"size"` // packed, bytes; 0 if the manifest or config is not in the store
}

// List returns the images of the store, newest first, then by name.
func List(s *cache.Store) ([]Row, error) {
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	sort.SliceStable(images, func(i, j int) bool {
		if a, b := images[i].Recorded, images[j].Recorded; !a.Equal(b) {
			return a.After(b)
		}
		return images[i].Name < images[j].Name
	})
	rows := make([]Row, 0, len(images))
	for _, image := range images {
		row := Row{Name: planner.FamiliarName(image.Name), Digest: image.Digest.String(), Kind: image.Kind}
		if !image.Recorded.IsZero() {
			recorded := image.Recorded.UTC()
			row.Recorded = &recorded
		}
		if opened, err := Open(s, image, platforms.DefaultSpec()); err == nil {
			row.Size = opened.PackedSize()
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// HistoryRow is one instruction of an image, as `docker history` shows it.
type HistoryRow struct {
	Image     string     `json:"image"` // the image's digest on the newest row, else NoImage
	Created   *time.Time `json:"created,omitempty"`
	CreatedBy string     `json:"createdBy"`
	Size      int64      `json:"size"` // packed, bytes; 0 for instructions without a layer
	Comment   string     `json:"comment,omitempty"`
}

// NoImage is the Image of all rows of a history except the newest.
const NoImage = "<missing>"

// History aligns the history of an image with its layers, newest first. A layer without a line of history gets a row of
// its own, so that every layer is shown.
func (i Image) History() []HistoryRow {
	var rows []HistoryRow
	layer := 0
	for _, h := range i.Config.History {
		row := HistoryRow{Image: NoImage, CreatedBy: h.CreatedBy, Comment: h.Comment,
			Created: i.createdAt(h.Created.Time)}
		if !h.EmptyLayer && layer < len(i.Manifest.Layers) {
			row.Size = i.Manifest.Layers[layer].Size
			layer++
		}
		rows = append(rows, row)
	}
	for ; layer < len(i.Manifest.Layers); layer++ {
		rows = append([]HistoryRow{{Image: NoImage, Size: i.Manifest.Layers[layer].Size}}, rows...)
	}
	for i, j := 0, len(rows)-1; i < j; i, j = i+1, j-1 {
		rows[i], rows[j] = rows[j], rows[i]
	}
	if len(rows) > 0 {
		rows[0].Image = i.Digest.String()
	}
	return rows
}

// createdAt returns when an instruction with a time in the history ran, nil if unknown. The reproducible time of an own
// build says nothing about that, so its instructions get the time that the store recorded for the build.
func (i Image) createdAt(line time.Time) *time.Time {
	if i.Kind == cache.KindBuilt && line.Equal(i.Config.Created.Time) {
		line = i.Recorded
	}
	if line.Unix() <= 0 {
		return nil
	}
	return &line
}

package pins

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/bakebuild/bake/config"
)

// Moved is a pin that names something else than before.
type Moved struct {
	Ref     string   `json:"reference"`
	Locked  Facts    `json:"locked"`  // before
	Current Facts    `json:"current"` // now
	Gained  []string `json:"platformsGained"`
	Lost    []string `json:"platformsLost"`
	Targets []string `json:"rebuilds"` // targets that have to be built again, sorted
}

// Facts describe an image, commit or file that a pin names. All fields except Pin are about images and are empty if
// the image cannot be read.
type Facts struct {
	Pin       string     `json:"pin"` // digest or commit
	Created   *time.Time `json:"created,omitempty"`
	Version   string     `json:"version,omitempty"` // this and the next two are OCI labels
	Revision  string     `json:"revision,omitempty"`
	Source    string     `json:"source,omitempty"`
	platforms []string
}

// Release prepares an update. It changes used, a copy of the lock that the plan will be computed with: pins that the
// names match are removed, so that the planner resolves them again, or set to the tag or digest to. The function that
// it returns reports whether a key was selected; Move takes it. p.Graph is not needed yet.
func (p *Plan) Release(ctx context.Context, used *config.Lock, names []string, to string) (func(string) bool, error) {
	selected, err := selectKeys(p.Project, used.Keys(), names)
	if err != nil {
		return nil, err
	}
	for _, key := range used.Keys() {
		if !selected(key) {
			continue
		}
		_, isImage := used.Images[key]
		used.Delete(key)
		if to == "" {
			continue
		}
		if !isImage {
			return nil, &UsageError{fmt.Errorf("--to=%s: %s is not an image", to, key)}
		}
		d, err := p.digestOf(ctx, key, to)
		if err != nil {
			return nil, err
		}
		used.Images[key] = config.ImagePin{Digest: d}
	}
	return selected, nil
}

// digestOf returns to if it is a digest, else what this tag of the reference's repository names now.
func (r Remote) digestOf(ctx context.Context, ref, to string) (digest.Digest, error) {
	if d := digest.Digest(to); d.Validate() == nil {
		return d, nil
	}
	return r.Registry.Head(ctx, repositoryOf(ref)+":"+to)
}

// Move sets the selected pins to what the plan resolved, and returns those that changed. An image that is pulled from
// another repository is copied there, unless dry is set.
func (p *Plan) Move(ctx context.Context, selected func(string) bool, dry bool) ([]Moved, error) {
	var moved []Moved
	for _, key := range p.Lock.Keys() {
		if !selected(key) || p.users(key) == nil {
			continue
		}
		old := p.Lock.Pin(key)
		if err := p.pin(ctx, key); err != nil {
			return nil, err
		}
		now := p.Lock.Pin(key)
		if old == now {
			continue
		}
		pin, isImage := p.Lock.Images[key]
		if isImage && pin.From != "" && !dry {
			if err := p.copyImage(ctx, key, config.ImagePin{Digest: pin.Digest}, pin.From); err != nil {
				return nil, err
			}
		}
		m := Moved{
			Ref: key, Locked: Facts{Pin: old}, Current: Facts{Pin: now},
			Gained: []string{}, Lost: []string{}, Targets: p.Graph.Users(key),
		}
		if isImage {
			m.Locked, m.Current = p.facts(ctx, key, old), p.facts(ctx, key, now)
			m.Gained = without(m.Current.platforms, m.Locked.platforms)
			m.Lost = without(m.Locked.platforms, m.Current.platforms)
		}
		moved = append(moved, m)
	}
	return moved, nil
}

// facts reads the config of an image. Errors are ignored, since the old image may no longer exist.
func (p *Plan) facts(ctx context.Context, ref, pin string) Facts {
	f := Facts{Pin: pin}
	if from := p.Lock.Images[ref].From; from != "" {
		ref = from
	}
	known, err := p.Images.ResolveImage(ctx, ref+"@"+pin, platforms.Normalize(platforms.DefaultSpec()))
	if err != nil {
		return f
	}
	var image ocispecs.Image
	if json.Unmarshal(known.Config, &image) != nil {
		return f
	}
	f.platforms = known.Platforms
	if image.Created != nil && image.Created.Unix() > 0 {
		f.Created = image.Created
	}
	labels := image.Config.Labels
	f.Version = labels[ocispecs.AnnotationVersion]
	f.Revision = labels[ocispecs.AnnotationRevision]
	f.Source = labels[ocispecs.AnnotationSource]
	return f
}

// without returns the entries of list that other lacks, each once; none if one of the lists is empty, that is, unknown.
func without(list, other []string) []string {
	rest := []string{}
	if len(list) == 0 || len(other) == 0 {
		return rest
	}
	for _, s := range list {
		if !slices.Contains(other, s) && !slices.Contains(rest, s) {
			rest = append(rest, s)
		}
	}
	return rest
}

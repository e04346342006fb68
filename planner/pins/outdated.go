package pins

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// maxLookups is how many references are looked up at a time.
const maxLookups = 8

// Status compares a pin with what its reference stands for now.
type Status struct {
	Ref     string     `json:"reference"`
	Locked  string     `json:"locked"`            // digest or commit
	Current string     `json:"current"`           // what the reference stands for now; "" if unknown
	Created *time.Time `json:"created,omitempty"` // when the locked image was created
	Newer   []string   `json:"newerTags"`         // newest first
	UsedBy  []string   `json:"usedBy"`            // targets
	Moved   bool       `json:"outdated"`          // Current is known and differs from Locked
	Err     error      `json:"-"`                 // why Current is unknown
}

// Outdated returns the status of each pin that the plan uses, in the order of the lock. It makes one request for each
// reference and one for the tags of each repository.
func (p *Plan) Outdated(ctx context.Context) []Status {
	list := []Status{}
	for _, key := range p.Lock.Keys() {
		if users := p.users(key); users != nil {
			list = append(list, Status{Ref: key, Locked: p.Lock.Pin(key), UsedBy: users, Newer: []string{}})
		}
	}
	tags := newTagLists(p.Registry)
	var g errgroup.Group
	g.SetLimit(maxLookups)
	for i := range list {
		g.Go(func() error {
			list[i].Err = p.look(ctx, tags, &list[i])
			return nil
		})
	}
	_ = g.Wait() // errors are in list
	return list
}

// look completes the status of one pin.
func (p *Plan) look(ctx context.Context, tags *tagLists, pin *Status) (err error) {
	if u := source(p.Graph, pin.Ref); u != nil {
		pin.Current, err = p.current(ctx, *u)
		pin.Moved = err == nil && pin.Current != pin.Locked
		return err
	}
	if b := p.base(pin.Ref); !b.Created.IsZero() {
		pin.Created = &b.Created
	}
	now, err := p.Registry.Head(ctx, pin.Ref)
	if err != nil {
		return err
	}
	pin.Current, pin.Moved = now.String(), now.String() != pin.Locked
	pin.Newer = newerTags(tagOf(pin.Ref), tags.list(ctx, repositoryOf(pin.Ref)))
	return nil
}

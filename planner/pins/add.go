package pins

import (
	"context"
	"fmt"

	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/config"
)

// Change is one difference between the lock as it was and as it is now.
type Change struct {
	Action string // "+": added, "-": removed, ">": copied to another repository
	Key    string
	Value  string // the pin added, or the repository copied to
}

// String returns one line of the output of bake pin.
func (c Change) String() string {
	if c.Value == "" {
		return c.Action + " " + c.Key
	}
	return c.Action + " " + c.Key + " " + c.Value
}

// AddMissing pins what the plan uses and the lock does not pin. If there are names, only keys that they match are
// added. prune also removes unused pins; the plan must then cover the whole project.
func (p *Plan) AddMissing(ctx context.Context, names []string, prune bool) ([]Change, error) {
	missing := Missing(p.Lock, p.Graph)
	selected, err := selectKeys(p.Project, usedKeys(p.Graph), names)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, key := range missing {
		if !selected(key) {
			continue
		}
		if err := p.pin(ctx, key); err != nil {
			return nil, err
		}
		changes = append(changes, Change{"+", key, p.Lock.Pin(key)})
	}
	if prune {
		for _, key := range Unused(p.Lock, p.Graph) {
			p.Lock.Delete(key)
			changes = append(changes, Change{Action: "-", Key: key})
		}
	}
	return changes, nil
}

// pin sets the pin of a key to what the key stood for in the plan. An image keeps the repository that it is pulled
// from. A source is looked up only if the plan did not need its content.
func (p *Plan) pin(ctx context.Context, key string) error {
	if b := p.base(key); b != nil {
		p.Lock.Images[key] = config.ImagePin{Digest: b.Digest, From: p.Lock.Images[key].From}
		return nil
	}
	s := source(p.Graph, key)
	if s == nil {
		return fmt.Errorf("%s is not used by the project", key)
	}
	pin := s.Pin
	if pin == "" {
		var err error
		if pin, err = p.current(ctx, *s); err != nil {
			return err
		}
	}
	if s.Git {
		p.Lock.Git[key] = pin
	} else {
		p.Lock.HTTP[key] = digest.Digest(pin)
	}
	return nil
}

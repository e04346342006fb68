package attest

import (
	"encoding/json"
	"fmt"

	digest "github.com/opencontainers/go-digest"
)

// claimField is the field of a provenance's metadata that lists the steps that did not run: a remote cache says what
// their result is. It has the form that SLSA asks of a builder's own fields.
const claimField = "bake_claims"

// claimedStep is a step whose result a remote cache claims. Nothing can verify such a claim.
type claimedStep struct {
	Step  digest.Digest `json:"step"`
	Name  string        `json:"name,omitempty"` // in mode=max only: it may contain build arguments
	Cache string        `json:"cache"`
}

// claimed returns the steps of the image that remote caches claim.
func (p provenance) claimed(names bool) []claimedStep {
	if p.source.Claim == nil {
		return nil
	}
	var all []claimedStep
	for _, s := range p.steps {
		cache := p.source.Claim(s)
		if cache == "" {
			continue
		}
		c := claimedStep{Step: s.Digest, Cache: cache}
		if names {
			c.Name = s.Name
		}
		all = append(all, c)
	}
	return all
}

// withClaimed encodes a predicate, with claimField in the object that path leads to.
func withClaimed(predicate any, all []claimedStep, path ...string) (json.RawMessage, error) {
	if len(all) == 0 {
		return json.MarshalIndent(predicate, "", "  ")
	}
	raw, err := json.Marshal(predicate)
	if err != nil {
		return nil, err
	}
	field, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	doc, err := insert(raw, field, path)
	if err != nil {
		return nil, fmt.Errorf("add %s: %w", claimField, err)
	}
	return json.MarshalIndent(doc, "", "  ")
}

// insert returns an object with claimField in the object that path leads to.
func insert(object, field json.RawMessage, path []string) (json.RawMessage, error) {
	members := map[string]json.RawMessage{}
	if len(object) > 0 {
		if err := json.Unmarshal(object, &members); err != nil {
			return nil, err
		}
	}
	if len(path) == 0 {
		members[claimField] = field
	} else {
		inner, err := insert(members[path[0]], field, path[1:])
		if err != nil {
			return nil, err
		}
		members[path[0]] = inner
	}
	return json.Marshal(members)
}

package planner

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
)

// node is one op of one target in canonical form. Nodes of different targets with the same digest become one Step.
//
// The frontend identifies an op by the digest of its bytes. These bytes also contain what has no effect on files, such
// as session ids, unique ids and transfer hints. And they name a local source by a name that is valid only within one
// run of the frontend: all targets call their main context "context". So equal steps can have different digests, and
// different steps the same one. The canonical form removes these parts, uses the names of the graph and applies the
// lock, then digests the op again. An op contains the digests of its inputs, so this goes from the sources up to the
// root.
//
// Invariant: two nodes have the same digest exactly if they do the same work on the same inputs. A part that is left in
// by mistake costs sharing and cache hits. A part that is removed by mistake is worse: two different steps become one,
// and a target gets the files of another. So the removed attributes are a fixed list (canonicalSource), and an op that
// needs no change keeps the frontend's bytes. Everything else, such as the location, is metadata outside the op.
//
// The cost is one unmarshal per op of a target's own Dockerfile and one marshal per changed op. Nodes of linked targets
// are canonical already and are shared. TestSamePlan and TestMonorepoMerges show the effect, the golden files in
// testdata the exact ops.
type node struct {
	digest digest.Digest
	raw    []byte // op, marshaled; its digest is digest
	op     *pb.Op
	inputs []nodeEdge
	meta   llb.OpMetadata
	at     []Location
}

// nodeEdge is an output of a node. The zero nodeEdge is scratch.
type nodeEdge struct {
	node  *node
	index int
}

// result is the frontend's result for one platform of one target.
type result struct {
	platform ocispecs.Platform
	root     nodeEdge
	own      []*node                 // nodes of this target's Dockerfile, inputs before users
	all      map[digest.Digest]*node // own, and the nodes of linked targets
	config   []byte
	epoch    *time.Time
	sbom     *nodeEdge // output of the SBOM scanner; nil without one

	provenance *Provenance

	once     sync.Once
	llb      llb.State
	stateErr error
}

// canonical converts a definition of the frontend to canonical form; see node. Nodes of linked targets are canonical
// already and are used unchanged.
func canonical(def *llb.Definition, in *inputs) (*result, error) {
	r := &result{all: map[digest.Digest]*node{}}
	linked := map[digest.Digest]*node{}
	for _, l := range in.linked {
		maps.Copy(linked, l.all)
	}
	maps.Copy(r.all, linked)
	byRaw := map[string]*node{}
	for _, raw := range def.Def {
		rawDigest := digest.FromBytes(raw)
		if n, ok := linked[rawDigest]; ok {
			byRaw[rawDigest.String()] = n
			continue
		}
		n := &node{digest: rawDigest, raw: raw, op: &pb.Op{}, meta: def.Metadata[rawDigest],
			at: locationsOf(def.Source, rawDigest)}
		if err := n.op.UnmarshalVT(raw); err != nil {
			return nil, fmt.Errorf("decode the frontend's definition: %w", err)
		}
		if err := n.rewrite(byRaw, in); err != nil {
			return nil, err
		}
		if n.op.Op == nil { // the last op, which only refers to the root
			r.root = n.inputs[0]
			continue
		}
		if same, ok := r.all[n.digest]; !ok {
			r.all[n.digest] = n
			r.own = append(r.own, n)
		} else {
			if linked[n.digest] == nil { // linked nodes are shared with the goroutines of other targets: read-only
				same.at = append(same.at, n.at...)
			}
			n = same
		}
		byRaw[rawDigest.String()] = n
	}
	return r, nil
}

// rewrite converts the op to canonical form and digests it again if it changed. byRaw maps the frontend's digests to
// nodes; it must contain all inputs.
func (n *node) rewrite(byRaw map[string]*node, in *inputs) error {
	changed := false
	for _, input := range n.op.Inputs {
		from, ok := byRaw[input.Digest]
		if !ok {
			return fmt.Errorf("the frontend's definition refers to the unknown step %s", input.Digest)
		}
		n.inputs = append(n.inputs, nodeEdge{from, int(input.Index)})
		if input.Digest != from.digest.String() {
			input.Digest = from.digest.String()
			changed = true
		}
	}
	if s := n.op.GetSource(); s != nil {
		pinned, err := in.pinSource(s, n.at)
		if err != nil {
			return locate(in, n.at, err)
		}
		changed = canonicalSource(s, in) || pinned || changed
	}
	if in.file.joint != "" {
		changed = withoutJoints(n.op, &n.meta, in.file.joint) || changed
	}
	if !changed {
		return nil
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(n.op)
	if err != nil {
		return fmt.Errorf("encode the plan: %w", err)
	}
	n.raw, n.digest = raw, digest.FromBytes(raw)
	return nil
}

// locate returns a DockerfileError for the first of some locations in a target's Dockerfile.
func locate(in *inputs, at []Location, err error) error {
	e := &DockerfileError{Target: in.client.target, File: in.file.display, Err: err}
	if len(at) > 0 {
		e.Line = at[0].Start
	}
	return e
}

// canonicalSource replaces the temporary names of local sources and OCI layouts by their names in the graph. It also
// removes the attributes that affect how a source is transferred but not its content. It reports whether anything
// changed.
func canonicalSource(s *pb.SourceOp, in *inputs) bool {
	changed := false
	if name, ok := strings.CutPrefix(s.Identifier, LocalPrefix); ok && s.Attrs[pb.AttrLocalSessionID] == session {
		if dir, ok := in.locals[name]; ok {
			s.Identifier = LocalPrefix + dir.name
			changed = true
		}
	}
	if dir, ok := in.layouts[s.Attrs[pb.AttrOCILayoutStoreID]]; ok {
		s.Attrs[pb.AttrOCILayoutStoreID] = dir.name
		changed = true
	}
	for _, attr := range []string{
		pb.AttrLocalUniqueID, pb.AttrLocalSessionID, pb.AttrFollowPaths, pb.AttrSharedKeyHint, pb.AttrLocalDiffer,
		pb.AttrImageResolveMode, pb.AttrOCILayoutSessionID,
	} {
		if _, ok := s.Attrs[attr]; ok {
			delete(s.Attrs, attr)
			changed = true
		}
	}
	return changed
}

// locationsOf returns the locations of an op in the Dockerfile.
func locationsOf(s *pb.Source, d digest.Digest) []Location {
	var out []Location
	for _, l := range s.GetLocations()[string(d)].GetLocations() {
		at := Location{File: s.Infos[l.SourceIndex].Filename}
		for _, r := range l.Ranges {
			if at.Start == 0 || int(r.Start.Line) < at.Start {
				at.Start = int(r.Start.Line)
			}
			at.End = max(at.End, int(r.End.Line), int(r.Start.Line))
		}
		if at.Start > 0 {
			out = append(out, at)
		}
	}
	return out
}

// state returns the result as an input of another target's frontend. It is built once, for all targets that link to
// it.
func (r *result) state() (llb.State, error) {
	r.once.Do(func() {
		r.llb = llb.Scratch()
		if r.root.node == nil {
			return
		}
		op, err := llb.NewDefinitionOp(r.definition())
		if err != nil {
			r.stateErr = fmt.Errorf("link to the target's result: %w", err)
			return
		}
		r.llb = llb.NewState(op)
	})
	return r.llb, r.stateErr
}

// definition returns the result's nodes as a definition for the frontend.
func (r *result) definition() *pb.Definition {
	def := &pb.Definition{
		Metadata: map[string]*pb.OpMetadata{},
		Source:   &pb.Source{Locations: map[string]*pb.Locations{}},
	}
	files := map[string]int32{}
	seen := map[*node]bool{}
	var add func(n *node)
	add = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		for _, in := range n.inputs {
			add(in.node)
		}
		def.Def = append(def.Def, n.raw)
		def.Metadata[n.digest.String()] = n.meta.ToPB()
		for _, at := range n.at {
			addLocation(def.Source, files, n.digest, at)
		}
	}
	add(r.root.node)
	terminal := &pb.Op{Inputs: []*pb.Input{{Digest: r.root.node.digest.String(), Index: int64(r.root.index)}}}
	raw, _ := terminal.MarshalVT() // cannot fail: the message has two plain fields
	def.Def = append(def.Def, raw)
	return def
}

func addLocation(s *pb.Source, files map[string]int32, d digest.Digest, at Location) {
	i, ok := files[at.File]
	if !ok {
		i = int32(len(s.Infos))
		files[at.File] = i
		s.Infos = append(s.Infos, &pb.SourceInfo{Filename: at.File, Language: "Dockerfile"})
	}
	list := s.Locations[d.String()]
	if list == nil {
		list = &pb.Locations{}
		s.Locations[d.String()] = list
	}
	list.Locations = append(list.Locations, &pb.Location{SourceIndex: i, Ranges: []*pb.Range{{
		Start: &pb.Position{Line: int32(at.Start)}, End: &pb.Position{Line: int32(at.End)},
	}}})
}

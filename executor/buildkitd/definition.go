package buildkitd

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/bakebuild/bake/planner"
)

// definitions are the steps of a graph as LLB for one session. A build context or an OCI layout also names the session,
// so that a daemon never shares it with the equal source of another client. Steps with secrets or SSH agents do not
// name it.
type definitions struct {
	session string
	secrets *secretSet
	noCache bool
	reads   map[*planner.Step][]string
	locals  map[string]planner.Local
	ops     map[*planner.Step]written
	steps   map[digest.Digest]*planner.Step
}

// written is one op in its final encoding.
type written struct {
	digest digest.Digest
	raw    []byte
	meta   *pb.OpMetadata
}

// newDefinitions encodes all steps of the graph.
func newDefinitions(g *planner.Graph, session string, o *secretSet, noCache bool) (*definitions, error) {
	d := &definitions{
		session: session, secrets: o, noCache: noCache, reads: g.Reads(), locals: g.Locals,
		ops: make(map[*planner.Step]written, len(g.Steps)), steps: make(map[digest.Digest]*planner.Step, len(g.Steps)),
	}
	for _, s := range g.Steps {
		if s.Test != nil {
			continue // the daemon runs tests in containers, see imagetests.go
		}
		w, err := d.write(s)
		if err != nil {
			return nil, fmt.Errorf("write step %q: %w", s.Name, err)
		}
		d.ops[s] = w
		d.steps[w.digest] = s
	}
	return d, nil
}

// write encodes a step. Its inputs must be encoded already: their digests change when a session is named.
func (d *definitions) write(s *planner.Step) (written, error) {
	op, ok := proto.Clone(s.Op).(*pb.Op)
	if !ok {
		return written{}, fmt.Errorf("unknown kind of operation %T", s.Op)
	}
	for i, in := range s.Inputs {
		from, ok := d.ops[in.Step]
		if !ok {
			return written{}, fmt.Errorf("input %d is not an earlier step", i)
		}
		op.Inputs[i].Digest = string(from.digest)
	}
	if source := op.GetSource(); source != nil {
		d.source(s, source)
	}
	if exec := op.GetExec(); exec != nil {
		d.secrets.rename(s, exec)
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
	if err != nil {
		return written{}, err
	}
	meta := &pb.OpMetadata{
		Description:    map[string]string{"llb.customname": s.Name},
		IgnoreCache:    s.NoCache || d.noCache && op.GetSource() == nil,
		LinuxResources: s.Resources,
	}
	return written{digest.FromBytes(raw), raw, meta}, nil
}

// source adds the session to a source that reads from it. A build context also gets the paths that steps read.
func (d *definitions) source(s *planner.Step, source *pb.SourceOp) {
	name, local := strings.CutPrefix(source.Identifier, planner.LocalPrefix)
	layout := source.Attrs[pb.AttrOCILayoutStoreID] != ""
	if source.Attrs == nil {
		source.Attrs = map[string]string{}
	}
	attrs := source.Attrs // the op is a copy
	if !local && !layout {
		d.secrets.renameSource(s, attrs)
		return
	}
	if layout {
		attrs[pb.AttrOCILayoutSessionID] = d.session
		return
	}
	attrs[pb.AttrLocalSessionID] = d.session
	attrs[pb.AttrLocalUniqueID] = d.session
	// Under this key the daemon keeps a directory, and receives only changes the next time.
	attrs[pb.AttrSharedKeyHint] = d.locals[name].Dir
	if paths := d.reads[s]; len(paths) > 0 {
		if raw, err := json.Marshal(paths); err == nil { // strings always marshal
			attrs[pb.AttrFollowPaths] = string(raw)
		}
	}
}

// of returns the definition of one output of a step, with every step that it needs; nil for scratch.
func (d *definitions) of(root planner.Edge) *pb.Definition {
	if root.Step == nil {
		return nil
	}
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	seen := map[*planner.Step]bool{}
	var add func(s *planner.Step)
	add = func(s *planner.Step) {
		if seen[s] {
			return
		}
		seen[s] = true
		for _, in := range s.Inputs {
			add(in.Step)
		}
		w := d.ops[s]
		def.Def = append(def.Def, w.raw)
		def.Metadata[string(w.digest)] = w.meta
	}
	add(root.Step)
	terminal := &pb.Op{Inputs: []*pb.Input{{Digest: string(d.ops[root.Step].digest), Index: int64(root.Index)}}}
	raw, _ := terminal.MarshalVT() // a message of two plain fields always marshals
	def.Def = append(def.Def, raw)
	def.Metadata[string(digest.FromBytes(raw))] = &pb.OpMetadata{}
	return def
}

// isLocal reports whether a step is a build context.
func isLocal(s *planner.Step) bool {
	return strings.HasPrefix(s.Op.GetSource().GetIdentifier(), planner.LocalPrefix)
}

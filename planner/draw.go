package planner

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Drawing is a graph reduced to the nodes and edges of a picture. Layout is left to the tools that read it: nodes only
// have an order, that of the graph, and edges a direction. Version is the version of the JSON encoding, which is 1.
type Drawing struct {
	Version int        `json:"version"`
	By      string     `json:"by"` // target, stage or step
	Nodes   []DrawNode `json:"nodes"`
	Edges   []DrawEdge `json:"edges"`
}

// DrawNode is a step, the steps of one stage, or the steps that the same targets need.
type DrawNode struct {
	ID      string   `json:"id"`
	Label   string   `json:"label"`
	Steps   int      `json:"steps"`
	Shared  bool     `json:"shared"` // needed by several targets
	Targets []string `json:"targets"`
	// Also are the names of further steps with the same result, because they read equal files.
	Also []string `json:"also,omitempty"`
}

// DrawEdge leads from a node to a node that uses it.
type DrawEdge struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Draw groups the steps of a graph by target, stage or step. Nodes are in the order of the graph. Edges within a group
// are left out, and so are duplicates. A test of an image config has an edge from the image, although it does not read
// it. same maps steps to earlier ones with the same result, whose files are equal; each is drawn as that one. It may be
// nil.
func (g *Graph) Draw(by string, same map[*Step]*Step) (Drawing, error) {
	first, targetsOf := g.drawnAs(same)
	var key func(*Step) string
	switch by {
	case "target":
		key = func(s *Step) string { return strings.Join(targetsOf[s], ", ") }
	case "stage":
		key = func(s *Step) string { return s.Stage() + "\x00" + strings.Join(targetsOf[s], ", ") }
	case "step":
		key = func(s *Step) string { return s.Digest.String() }
	default:
		return Drawing{}, fmt.Errorf("expected target, stage or step, got %q", by)
	}
	tested := g.Tested()
	d := Drawing{Version: 1, By: by, Nodes: []DrawNode{}, Edges: []DrawEdge{}}
	index := map[string]int{}
	edges := map[DrawEdge]bool{}
	for _, s := range g.Steps {
		k := key(first[s])
		i, ok := index[k]
		if !ok {
			i = len(d.Nodes)
			index[k] = i
			targets := append([]string{}, targetsOf[s]...)
			d.Nodes = append(d.Nodes, DrawNode{ID: "n" + strconv.Itoa(i), Label: labelOf(by, s, targets),
				Targets: targets, Shared: len(targets) > 1})
		}
		switch {
		case first[s] == s:
			d.Nodes[i].Steps++
		case by == "step":
			d.Nodes[i].Also = append(d.Nodes[i].Also, s.ownName())
		}
		below := tested[s]
		for _, in := range s.Inputs {
			below = append(below, in.Step)
		}
		for _, in := range below {
			if in == nil {
				continue
			}
			e := DrawEdge{d.Nodes[index[key(first[in])]].ID, d.Nodes[i].ID}
			if e.From != e.To && !edges[e] {
				edges[e] = true
				d.Edges = append(d.Edges, e)
			}
		}
	}
	return d, nil
}

// drawnAs returns the step that each step is drawn as, and the targets that need it in any of its forms.
func (g *Graph) drawnAs(same map[*Step]*Step) (first map[*Step]*Step, targets map[*Step][]string) {
	first, targets = map[*Step]*Step{}, map[*Step][]string{}
	for _, s := range g.Steps {
		first[s] = s
		if earlier := same[s]; first[earlier] != nil {
			first[s] = first[earlier]
		}
		all := slices.Concat(targets[first[s]], s.Targets)
		slices.Sort(all)
		targets[first[s]] = slices.Compact(all)
	}
	for _, s := range g.Steps {
		targets[s] = targets[first[s]]
	}
	return first, targets
}

// labelOf returns the label of the node that a step is grouped into.
func labelOf(by string, s *Step, targets []string) string {
	switch by {
	case "target":
		return strings.Join(targets, ", ")
	case "stage":
		return s.Stage()
	}
	return s.ownName()
}

// maxLabel is the maximum length of a drawn label, in characters.
const maxLabel = 120

// text returns the label as one line without control characters, with the number of steps if there are several.
func (n DrawNode) text() string {
	t := strings.Join(strings.FieldsFunc(n.Label,
		func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }), " ")
	if runes := []rune(t); len(runes) > maxLabel {
		t = string(runes[:maxLabel-1]) + "…"
	}
	if n.Steps > 1 {
		t += fmt.Sprintf(" (%d steps)", n.Steps)
	}
	if len(n.Also) > 0 {
		t += fmt.Sprintf(" (and %d with equal files)", len(n.Also))
	}
	return t
}

// WriteDOT writes the drawing for Graphviz. Shared nodes are filled.
func (d Drawing) WriteDOT(w io.Writer) error {
	var b strings.Builder
	b.WriteString("digraph bake {\n  rankdir=LR\n  node [shape=box]\n")
	for _, n := range d.Nodes {
		style := ""
		if n.Shared {
			style = ` style=filled fillcolor="#cfe8ff"`
		}
		fmt.Fprintf(&b, "  %s [label=\"%s\"%s]\n", n.ID, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(n.text()),
			style)
	}
	for _, e := range d.Edges {
		fmt.Fprintf(&b, "  %s -> %s\n", e.From, e.To)
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteMermaid writes the drawing for Mermaid. Shared nodes have the class shared.
func (d Drawing) WriteMermaid(w io.Writer) error {
	var b strings.Builder
	b.WriteString("flowchart LR\n")
	var shared []string
	escape := strings.NewReplacer(`"`, "#quot;", "#", "#35;", "<", "#lt;", ">", "#gt;", "`", "#96;", `\`, "#92;")
	for _, n := range d.Nodes {
		fmt.Fprintf(&b, "  %s[\"%s\"]\n", n.ID, escape.Replace(n.text()))
		if n.Shared {
			shared = append(shared, n.ID)
		}
	}
	for _, e := range d.Edges {
		fmt.Fprintf(&b, "  %s --> %s\n", e.From, e.To)
	}
	if len(shared) > 0 {
		fmt.Fprintf(&b, "  classDef shared fill:#cfe8ff\n  class %s shared\n",
			strings.Join(slices.Compact(shared), ","))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON writes the drawing as JSON.
func (d Drawing) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(d)
}

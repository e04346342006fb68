package planner

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// WriteText writes the whole graph as text for people, diffs and golden files. Steps are numbered from 1, each with all
// fields of its op that are set. The same graph gives the same text.
func (g *Graph) WriteText(w io.Writer) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "declared %d, merged to %d\n", g.Declared, len(g.Steps))
	number := map[*Step]int{}
	for i, s := range g.Steps {
		number[s] = i + 1
		writeStep(out, i+1, s, number)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Locals)) {
		fmt.Fprintf(out, "local %s\n", name)
	}
	for _, name := range slices.Sorted(maps.Keys(g.Layouts)) {
		fmt.Fprintf(out, "layout %s\n", name)
	}
	for _, i := range g.Images {
		writeImage(out, i, number)
	}
	for _, warning := range g.Warnings {
		fmt.Fprintf(out, "warning %s: %s: %s\n", warning.Location, warning.Rule, warning.Message)
	}
	return out.Flush()
}

// String returns FILE:LINE or FILE:LINE-LINE, or FILE if the line is unknown.
func (l Location) String() string {
	switch {
	case l.Start <= 0:
		return l.File
	case l.End <= l.Start:
		return fmt.Sprintf("%s:%d", l.File, l.Start)
	}
	return fmt.Sprintf("%s:%d-%d", l.File, l.Start, l.End)
}

func writeStep(out io.Writer, n int, s *Step, number map[*Step]int) {
	fmt.Fprintf(out, "step %d %s %s\n", n, s.Digest.Encoded()[:12], s.Kind())
	fmt.Fprintf(out, "  name %s\n", s.Name)
	for _, at := range s.Source {
		fmt.Fprintf(out, "  at %s\n", at)
	}
	fmt.Fprintf(out, "  for %s\n", strings.Join(s.Targets, " "))
	for _, in := range s.Inputs {
		fmt.Fprintf(out, "  in %s\n", edgeText(in, number))
	}
	if s.NoCache {
		fmt.Fprintln(out, "  no-cache")
	}
	if s.Resources != nil {
		fmt.Fprintf(out, "  resources %s\n", messageText(s.Resources.ProtoReflect()))
	}
	if p := s.Op.Platform; p != nil {
		fmt.Fprintf(out, "  platform %s\n", platforms.FormatAll(p.Spec()))
	}
	if s.Test != nil {
		if raw, err := json.Marshal(s.Test); err == nil { // cannot fail: plain fields
			fmt.Fprintf(out, "  test %s\n", raw)
		}
	}
	m := s.Op.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if kind == nil {
		return
	}
	eachField(m.Get(kind).Message(), func(name, value string) { fmt.Fprintf(out, "  %s %s\n", name, value) })
}

func writeImage(out io.Writer, i *Image, number map[*Step]int) {
	fmt.Fprintf(out, "image %s %s\n", i.Target, platforms.FormatAll(i.Platform))
	fmt.Fprintf(out, "  root %s\n", edgeText(i.Root, number))
	if i.Base.Ref != "" {
		fmt.Fprintf(out, "  base %s@%s\n", i.Base.Ref, i.Base.Digest)
	}
	for _, tag := range i.Tags {
		fmt.Fprintf(out, "  tag %s\n", tag)
	}
	if i.Epoch != nil {
		fmt.Fprintf(out, "  epoch %d\n", i.Epoch.Unix())
	}
	for _, s := range i.Tests {
		fmt.Fprintf(out, "  test %d\n", number[s])
	}
	fmt.Fprintf(out, "  config %s\n", i.Config)
}

// edgeText returns the step's number, followed by the output's index unless it is 0.
func edgeText(e Edge, number map[*Step]int) string {
	switch {
	case e.Step == nil:
		return "scratch"
	case e.Index == 0:
		return strconv.Itoa(number[e.Step])
	}
	return fmt.Sprintf("%d.%d", number[e.Step], e.Index)
}

// Kind returns the kind of the step: source, exec, file, merge, diff, build, passthrough or test.
func (s *Step) Kind() string {
	if s.Test != nil {
		return "test"
	}
	return opKind(s.Op)
}

func opKind(op *pb.Op) string {
	m := op.ProtoReflect()
	kind := m.WhichOneof(m.Descriptor().Oneofs().Get(0))
	if kind == nil {
		return "unknown"
	}
	return string(kind.Name())
}

// eachField calls f for each set field in the order of the message's definition, and for each element of a list.
func eachField(m protoreflect.Message, f func(name, value string)) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		name, value := string(field.Name()), m.Get(field)
		switch {
		case field.IsMap():
			var entries []string
			value.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
				entries = append(entries, k.String()+" "+valueText(field.MapValue(), v))
				return true
			})
			sort.Strings(entries)
			for _, e := range entries {
				f(name, e)
			}
		case field.IsList() && field.Message() != nil:
			for i := range value.List().Len() {
				f(name, messageText(value.List().Get(i).Message()))
			}
		case field.IsList():
			var elements []string
			for i := range value.List().Len() {
				elements = append(elements, valueText(field, value.List().Get(i)))
			}
			f(name, "["+strings.Join(elements, " ")+"]")
		default:
			f(name, valueText(field, value))
		}
	}
}

func messageText(m protoreflect.Message) string {
	var parts []string
	eachField(m, func(name, value string) { parts = append(parts, name+" "+value) })
	return "{" + strings.Join(parts, ", ") + "}"
}

func valueText(field protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch {
	case field.Message() != nil:
		return messageText(v.Message())
	case field.Kind() == protoreflect.StringKind:
		return strconv.Quote(v.String())
	case field.Kind() == protoreflect.BytesKind:
		return strconv.Quote(string(v.Bytes()))
	case field.Kind() == protoreflect.EnumKind:
		if e := field.Enum().Values().ByNumber(v.Enum()); e != nil {
			return string(e.Name())
		}
	}
	return v.String()
}

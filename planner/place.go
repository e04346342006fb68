package planner

import (
	"cmp"
	"strings"
)

// ownName is the step's display name without the targets in front.
func (s *Step) ownName() string { return cmp.Or(s.Own, s.Name) }

// inside splits the display name of an instruction, "[build 2/4] RUN make", into its stage, which may have no name, its
// number in it, and its text. What is no instruction of a stage, as a context or a base, has none of them.
func (s *Step) inside() (stage, number, text string, ok bool) {
	name := s.ownName()
	bracket, text, ok := strings.Cut(strings.TrimPrefix(name, "["), "] ")
	if !ok || !strings.HasPrefix(name, "[") || !strings.Contains(bracket, "/") {
		return "", "", "", false
	}
	at := strings.LastIndex(bracket, " ")
	number, _, _ = strings.Cut(bracket[at+1:], "/")
	return bracket[:max(at, 0)], number, text, true
}

// Stage names the stage of a step with its Dockerfile, or the step itself where it has none, as a context or a base.
func (s *Step) Stage() string {
	stage, _, _, ok := s.inside()
	if !ok {
		return s.ownName()
	}
	file := ""
	if len(s.Source) > 0 {
		file = s.Source[0].File + ": "
	}
	if stage == "" {
		return file + "last stage"
	}
	return file + "stage " + stage
}

// Home is Stage, but for the only stage of a file: it has the name here that it gets when something stands beside it, as a cache mount
// of a command does.
func (s *Step) Home() string {
	if stage, _, _, ok := s.inside(); ok && stage == "" && len(s.Source) > 0 {
		return s.Source[0].File + ": stage stage-0"
	}
	return s.Stage()
}

// Instruction is the step's text in its Dockerfile with its number in the stage, or its name and "" where it is none.
func (s *Step) Instruction() (text, number string) {
	_, number, text, ok := s.inside()
	if !ok {
		return s.ownName(), ""
	}
	return text, number
}

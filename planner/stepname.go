package planner

import (
	"cmp"
	"strings"
)

// ownName returns the display name without the targets in front.
func (s *Step) ownName() string { return cmp.Or(s.Own, s.Name) }

// splitName splits the display name of an instruction, "[build 2/4] RUN make", into the stage, which may be unnamed,
// the number and the text. ok is false for a step that is not an instruction of a stage, such as a context or a base.
func (s *Step) splitName() (stage, number, text string, ok bool) {
	name := s.ownName()
	bracket, text, ok := strings.Cut(strings.TrimPrefix(name, "["), "] ")
	if !ok || !strings.HasPrefix(name, "[") || !strings.Contains(bracket, "/") {
		return "", "", "", false
	}
	at := strings.LastIndex(bracket, " ")
	number, _, _ = strings.Cut(bracket[at+1:], "/")
	return bracket[:max(at, 0)], number, text, true
}

// Stage returns the stage of a step with its Dockerfile. For a step without a stage, such as a context or a base, it
// returns the step's name.
func (s *Step) Stage() string {
	stage, _, _, ok := s.splitName()
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

// StableStage is like Stage, except that the only stage of a file is named stage-0. The frontend uses that name as
// soon as another stage, image or cache mount is used, so the result stays the same when one is added.
func (s *Step) StableStage() string {
	if stage, _, _, ok := s.splitName(); ok && stage == "" && len(s.Source) > 0 {
		return s.Source[0].File + ": stage stage-0"
	}
	return s.Stage()
}

// Instruction returns the text of an instruction and its number in the stage. For any other step it returns the name
// and "".
func (s *Step) Instruction() (text, number string) {
	_, number, text, ok := s.splitName()
	if !ok {
		return s.ownName(), ""
	}
	return text, number
}

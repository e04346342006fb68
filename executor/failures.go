package executor

import "strings"

// Failures are the errors of a run that went on after the first of them, in the order in which they happened.
type Failures struct{ All []error }

// Failed is nothing for no error, the one error, or *Failures of several.
func Failed(all []error) error {
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return &Failures{all}
}

// Error is the text of all, a paragraph each.
func (f *Failures) Error() string {
	texts := make([]string, len(f.All))
	for i, err := range f.All {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap gives all errors.
func (f *Failures) Unwrap() []error { return f.All }

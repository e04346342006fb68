package executor

import "strings"

// Failures are the errors of a run that continued after the first one, in the order in which they happened.
type Failures struct{ All []error }

// Failed returns nil for no errors, the error itself for one, and *Failures for several.
func Failed(all []error) error {
	switch len(all) {
	case 0:
		return nil
	case 1:
		return all[0]
	}
	return &Failures{all}
}

// Error implements error: the text of each error on its own line.
func (f *Failures) Error() string {
	texts := make([]string, len(f.All))
	for i, err := range f.All {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "\n")
}

// Unwrap returns all errors.
func (f *Failures) Unwrap() []error { return f.All }

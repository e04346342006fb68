package registry

import (
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// localError is of reading what is pushed, which is no fault of a registry.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// localLayer marks the errors of reading a layer.
type localLayer struct{ v1.Layer }

// Compressed implements v1.Layer.
func (l localLayer) Compressed() (io.ReadCloser, error) {
	r, err := l.Layer.Compressed()
	if err != nil {
		return nil, &localError{err}
	}
	return localReader{r}, nil
}

type localReader struct{ io.ReadCloser }

func (r localReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = &localError{err}
	}
	return n, err
}

package embedded

import (
	"fmt"
	"strings"
)

// newSource returns the operation that reads a source op.
func newSource(n *node) (operation, error) {
	source := n.step.Op.GetSource()
	id := source.GetIdentifier()
	scheme, _, ok := strings.Cut(id, "://")
	if !ok {
		return nil, fmt.Errorf("source %q has no scheme", id)
	}
	switch scheme {
	case "local":
		return newLocal(n, source)
	case "docker-image", "oci-layout":
		return newImageSource(n, source)
	case "http", "https":
		return newHTTP(n, source)
	case "git":
		return newGit(n, source)
	}
	return nil, &UnsupportedError{What: "sources of type " + scheme, Instead: "use an image, a directory or a URL"}
}

// UnsupportedError means that this engine cannot execute a kind of step.
type UnsupportedError struct{ What, Instead string }

// Error returns the complete message.
func (e *UnsupportedError) Error() string {
	return fmt.Sprintf("this engine does not execute %s; %s", e.What, e.Instead)
}

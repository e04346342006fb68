package embedded

import (
	"context"
	"fmt"
	"os"
	"testing"

	"github.com/bakebuild/bake/executor/embedded/sandbox"
)

// TestMain lets this program be the first process of a step, the builder of a test with several processes, and, for an
// unprivileged user, run the tests in a user namespace.
func TestMain(m *testing.M) {
	code, done, err := sandbox.Enter(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err) // the tests that need a sandbox say so too
	}
	if done {
		os.Exit(code)
	}
	if order := os.Getenv(orderVariable); order != "" {
		os.Exit(obey(order))
	}
	os.Exit(m.Run())
}

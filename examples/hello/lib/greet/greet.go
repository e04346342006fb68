// Package greet is what the three services share.
package greet

import "fmt"

// To returns the greeting of a service to somebody.
func To(service, name string) string {
	return fmt.Sprintf("%s says: hello, %s!", service, name)
}

// Package idmap explains ids that do not exist in a user namespace. It imports only the standard library, because the
// init process of a step waits for everything that package sandbox imports.
package idmap

// Remedy says what an unprivileged user needs for more than one id.
const Remedy = "add entries for this user to /etc/subuid and /etc/subgid (subordinate ids), " +
	"and install newuidmap and newgidmap"

// Unmapped returns the message for a user, group or owner that the user namespace does not map.
func Unmapped(what string) string {
	return what + " is not mapped in this user namespace; " + Remedy
}

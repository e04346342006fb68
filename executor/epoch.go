package executor

import "time"

// DefaultEpoch is the time that images show when nobody asks for another: 2000-01-01 UTC. It is after 1980, which zip
// files cannot hold less of, and it is the same on every machine.
func DefaultEpoch() time.Time { return time.Unix(946684800, 0).UTC() }

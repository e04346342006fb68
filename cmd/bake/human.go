package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/bakebuild/bake/planner"
)

// shownName returns the short spelling of a stored name: docker.io/library/x:latest is x:latest.
func shownName(name string) string { return planner.FamiliarName(name) }

// shortID returns the first 12 digits of a digest, as Docker shows it.
func shortID(digest string) string {
	_, hex, ok := strings.Cut(digest, ":")
	if !ok {
		hex = digest
	}
	return hex[:min(12, len(hex))]
}

// humanSize returns a number of bytes as Docker shows it: three digits and a decimal unit.
func humanSize(n int64) string { return units.HumanSizeWithPrecision(float64(n), 3) }

// humanAge returns the time between then and now in the largest unit that counts at least two, "-" for an unknown time.
func humanAge(now, then time.Time) string {
	if then.IsZero() {
		return "-"
	}
	d := now.Sub(then)
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{
		{365 * 24 * time.Hour, "years"},
		{30 * 24 * time.Hour, "months"},
		{7 * 24 * time.Hour, "weeks"},
		{24 * time.Hour, "days"},
		{time.Hour, "hours"},
		{time.Minute, "minutes"},
		{time.Second, "seconds"},
	} {
		if n := int64(d / unit.length); n >= 2 {
			return fmt.Sprintf("%d %s ago", n, unit.name)
		}
	}
	return "just now"
}

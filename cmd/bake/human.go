package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// humanSize is a number of bytes as docker shows it: three digits and a decimal unit.
func humanSize(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB"}
	v, unit := float64(n), 0
	for v >= 1000 && unit < len(units)-1 {
		v /= 1000
		unit++
	}
	return fmt.Sprintf("%.3g%s", v, units[unit])
}

// humanAge says how long before now a time was, in the largest unit that counts at least two; "-" when unknown.
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

// parseSize reads a number of bytes such as 512, 20GB or 1.5GiB.
func parseSize(s string) (int64, error) {
	number := strings.TrimRight(s, "BbKkMmGgTti")
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || v < 0 {
		return 0, fmt.Errorf("%q is no size: write 512MB, 20GB or 1.5GiB", s)
	}
	unit := strings.ToLower(strings.TrimPrefix(s, number))
	base, unit := 1000.0, strings.TrimSuffix(unit, "b")
	if strings.HasSuffix(unit, "i") {
		base, unit = 1024, strings.TrimSuffix(unit, "i")
	}
	power := map[string]float64{"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
	p, ok := power[unit]
	if !ok || v*math.Pow(base, p) > math.MaxInt64 {
		return 0, fmt.Errorf("%q is no size: write 512MB, 20GB or 1.5GiB", s)
	}
	return int64(v * math.Pow(base, p)), nil
}

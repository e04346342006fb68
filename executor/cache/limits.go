package cache

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// The default limits: a fifth of the file system, or half of a small one, and a twentieth of it kept free.
const (
	defaultShare      = 5
	defaultLeast      = 10e9
	defaultFreeShare  = 20
	defaultFreeAtMost = 10e9
)

// ParseLimits reads the limits of a cache in dir, whose file system they may depend on. Each text is a size such as
// 20GB, a share of the file system such as 20%, "none", or "" for the default. An error of a text is given to invalid,
// by which the caller names the setting.
func ParseLimits(dir, size, reserve string, invalid func(reserve bool, err error) error) (Limits, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Limits{}, &Error{Op: "measure the disk of", Path: dir, Err: err}
	}
	disk := int64(st.Blocks) * st.Frsize
	var l Limits
	var err error
	if l.Size, err = parseLimit(size, disk, max(disk/defaultShare, min(defaultLeast, disk/2))); err != nil {
		return Limits{}, invalid(false, err)
	}
	if l.Reserve, err = parseLimit(reserve, disk, min(disk/defaultFreeShare, defaultFreeAtMost)); err != nil {
		return Limits{}, invalid(true, err)
	}
	return l, nil
}

func parseLimit(text string, disk, defaultLimit int64) (int64, error) {
	if text == "" {
		return defaultLimit, nil
	}
	if text == "none" {
		return 0, nil
	}
	if share, ok := strings.CutSuffix(text, "%"); ok {
		p, err := strconv.ParseFloat(share, 64)
		if err != nil || !(p > 0 && p <= 100) {
			return 0, fmt.Errorf("%q is not a share of the disk; use 20%%", text)
		}
		return int64(float64(disk) * p / 100), nil
	}
	n, err := ParseSize(text)
	if err == nil && n == 0 {
		err = fmt.Errorf("%q; use none for no limit", text)
	}
	return n, err
}

// ParseSize reads a number of bytes such as 512, 20GB or 1.5GiB. Only units with an i are powers of 1024.
func ParseSize(s string) (int64, error) {
	parse := units.FromHumanSize
	number := s
	if strings.ContainsAny(s, "iI") {
		parse, number = units.RAMInBytes, strings.TrimRight(s, "bB")+"B" // go-units does not read Ki for KiB
	}
	n, err := parse(number)
	if err != nil || n < 0 || n == math.MaxInt64 { // the last two: more bytes than an int64 holds
		return 0, fmt.Errorf("%q is not a size; use 512MB, 20GB or 1.5GiB", s)
	}
	return n, nil
}

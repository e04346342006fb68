package registry

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// maxConfigSize bounds one registries.conf, in bytes.
const maxConfigSize = 1 << 20

// Config says where registries are really found: what of containers-registries.conf(5), version 2, concerns pulls and
// pushes by full name. Short names are not searched for. The zero value changes nothing.
type Config struct {
	Registries []Registry
}

// Registry is one [[registry]] table.
type Registry struct {
	// Prefix is what references begin with that the table is about: a host, a host and a path, or *.domain for all
	// hosts below a domain. It is Location when the file gives none.
	Prefix string
	// Location replaces Prefix in what is asked for; empty for a wildcard means that nothing is replaced.
	Location string
	// Insecure allows plain HTTP and certificates that do not verify. Nil is the usual: only loopback speaks plain HTTP.
	Insecure *bool
	// PlainHTTP asks in plain HTTP only.
	PlainHTTP bool
	// CA are files of certificates that are trusted besides the system's. They are for HTTPS, on loopback too.
	CA []string
	// Blocked refuses pulls and pushes.
	Blocked bool
	// MirrorByDigestOnly asks the mirrors only for references with a digest.
	MirrorByDigestOnly bool
	// Mirrors are asked in this order before Location, for pulls.
	Mirrors []Mirror
}

// Mirror is one [[registry.mirror]] table.
type Mirror struct {
	Location string
	Insecure *bool
	// Pull is what the mirror is asked for: "all", "digest-only" or "tag-only".
	Pull string
}

// configFile is a registries.conf as it is written.
type configFile struct {
	Registry []registryTable `toml:"registry"`
}

type registryTable struct {
	Prefix             string        `toml:"prefix"`
	Location           string        `toml:"location"`
	Insecure           *bool         `toml:"insecure"`
	Blocked            bool          `toml:"blocked"`
	MirrorByDigestOnly bool          `toml:"mirror-by-digest-only"`
	Mirror             []mirrorTable `toml:"mirror"`
}

type mirrorTable struct {
	Location       string `toml:"location"`
	Insecure       *bool  `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"`
}

// ConfigPaths lists the files that LoadConfig reads, the later ones winning: CONTAINERS_REGISTRIES_CONF alone when it
// is set; else the user's own containers/registries.conf, or /etc's when there is none, followed by the files in
// registries.conf.d of /etc and of the user.
func ConfigPaths(getenv func(string) (string, bool)) []string {
	if path, ok := getenv("CONTAINERS_REGISTRIES_CONF"); ok && path != "" {
		return []string{path}
	}
	system := "/etc/containers"
	home, _ := getenv("XDG_CONFIG_HOME")
	if home == "" {
		if home, _ = getenv("HOME"); home != "" {
			home = filepath.Join(home, ".config")
		}
	}
	main, dirs := filepath.Join(system, "registries.conf"), []string{system}
	if home != "" {
		user := filepath.Join(home, "containers")
		dirs = append(dirs, user)
		if own := filepath.Join(user, "registries.conf"); isFile(own) {
			main = own
		}
	}
	paths := []string{main}
	for _, dir := range dirs {
		dropIns, _ := fs.Glob(os.DirFS(dir), "registries.conf.d/*.conf") // sorted
		for _, name := range dropIns {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	return paths
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// LoadConfig reads registries.conf files. Files that do not exist are passed over; of several tables with one prefix
// the last one holds. The error is an *Error that names file and place.
func LoadConfig(paths []string) (*Config, error) {
	merged := &Config{}
	for _, path := range paths {
		content, err := readConfig(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			var one *Config
			if one, err = ParseConfig(content); err == nil {
				merged.add(one)
				continue
			}
		}
		return nil, &Error{What: "read " + path, Cause: err, Hint: "correct the file (see containers-registries.conf(5)), or name another in CONTAINERS_REGISTRIES_CONF"}
	}
	return merged, nil
}

func readConfig(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxConfigSize+1))
	if err == nil && len(content) > maxConfigSize {
		err = fmt.Errorf("it is larger than %d bytes", maxConfigSize)
	}
	return string(content), err
}

// ParseConfig reads the text of one registries.conf. Settings that concern other tools are ignored.
func ParseConfig(text string) (*Config, error) {
	var file configFile
	if _, err := toml.Decode(text, &file); err != nil {
		var where toml.ParseError
		if errors.As(err, &where) {
			return nil, fmt.Errorf("line %d: %s", where.Position.Line, where.Message)
		}
		return nil, err
	}
	c := &Config{}
	for _, table := range file.Registry {
		r, err := table.registry()
		if err != nil {
			return nil, err
		}
		c.Registries = append(c.Registries, r)
	}
	return c, nil
}

func (t registryTable) registry() (Registry, error) {
	r := Registry{
		Prefix: t.Prefix, Insecure: t.Insecure, Blocked: t.Blocked, MirrorByDigestOnly: t.MirrorByDigestOnly,
	}
	var err error
	if t.Location != "" || !strings.HasPrefix(t.Prefix, "*.") {
		if r.Location, err = place("location", t.Location); err != nil {
			return r, err
		}
	}
	if r.Prefix == "" {
		r.Prefix = r.Location
	}
	if r.Prefix, err = place("prefix", r.Prefix); err != nil {
		return r, err
	}
	for _, m := range t.Mirror {
		location, err := place("mirror location", m.Location)
		if err != nil {
			return r, err
		}
		switch m.PullFromMirror {
		case "", "all", "digest-only", "tag-only":
		default:
			return r, fmt.Errorf("pull-from-mirror %q of mirror %s: want all, digest-only or tag-only", m.PullFromMirror, location)
		}
		if t.MirrorByDigestOnly && m.PullFromMirror != "" {
			return r, fmt.Errorf("registry %s: mirror-by-digest-only and pull-from-mirror exclude each other", r.Prefix)
		}
		r.Mirrors = append(r.Mirrors, Mirror{Location: location, Insecure: m.Insecure, Pull: m.PullFromMirror})
	}
	return r, nil
}

// place checks a host with an optional path.
func place(what, s string) (string, error) {
	s = strings.TrimRight(s, "/")
	switch {
	case s == "":
		return "", fmt.Errorf("there is no %s", what)
	case strings.Contains(s, "://"):
		return "", fmt.Errorf("%s %q: write it without http:// or https://", what, s)
	case strings.ContainsAny(s, " \t\r\n@?#\\%"), strings.HasPrefix(s, "/"):
		return "", fmt.Errorf("%s %q is not a host with an optional path", what, s)
	}
	return s, nil
}

// add puts the tables of other over those with the same prefix.
func (c *Config) add(other *Config) {
	for _, r := range other.Registries {
		c.Registries = append(c.without(r.Prefix), r)
	}
}

func (c *Config) without(prefix string) []Registry {
	var kept []Registry
	for _, r := range c.Registries {
		if r.Prefix != prefix {
			kept = append(kept, r)
		}
	}
	return kept
}

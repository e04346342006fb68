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

// Config maps references to registries and mirrors. It holds the part of containers-registries.conf(5), version 2,
// that concerns pulls and pushes by full name; there is no search for short names. The zero value changes nothing.
type Config struct {
	Registries []Registry
}

// Registry is one [[registry]] table.
type Registry struct {
	// Prefix selects references by how they begin: a host, a host and a path, or *.domain for all hosts below a
	// domain. The default is Location.
	Prefix string
	// Location replaces Prefix in requests. If it is empty, as may be with a wildcard, nothing is replaced.
	Location string
	// Insecure allows plain HTTP and invalid certificates. Nil means the default: plain HTTP on loopback only.
	Insecure *bool
	// PlainHTTP uses plain HTTP only.
	PlainHTTP bool
	// CA are files with trusted certificates, in addition to those of the system. They imply HTTPS, even on loopback.
	CA []string
	// Blocked rejects pulls and pushes.
	Blocked bool
	// MirrorByDigestOnly uses the mirrors only for references with a digest.
	MirrorByDigestOnly bool
	// Mirrors are tried in this order before Location, for pulls only.
	Mirrors []Mirror
}

// Mirror is one [[registry.mirror]] table.
type Mirror struct {
	Location string
	Insecure *bool
	// Pull selects the references the mirror is used for: "all", "digest-only" or "tag-only".
	Pull string
}

// configFile is the syntax of a registries.conf.
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

// ConfigPaths lists the files that LoadConfig reads; later ones take precedence. If CONTAINERS_REGISTRIES_CONF is set,
// it is the only one. Otherwise the first is the user's containers/registries.conf, or the one in /etc if the user has
// none. Then follow the files in registries.conf.d of /etc and of the user.
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

// LoadConfig reads registries.conf files. Missing files are skipped. Of several tables with the same prefix, the last
// one is used. The error is an *Error that names file and position.
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
		return nil, &Error{
			What: "read " + path, Cause: err,
			Hint: "correct the file (see containers-registries.conf(5)), or name another in CONTAINERS_REGISTRIES_CONF",
		}
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
		err = fmt.Errorf("file is larger than %d bytes", maxConfigSize)
	}
	return string(content), err
}

// ParseConfig parses the text of one registries.conf. Settings for other tools are ignored.
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
			return r, fmt.Errorf("pull-from-mirror %q of mirror %s: expected all, digest-only or tag-only",
				m.PullFromMirror, location)
		}
		if t.MirrorByDigestOnly && m.PullFromMirror != "" {
			return r, fmt.Errorf("registry %s: mirror-by-digest-only and pull-from-mirror cannot be combined", r.Prefix)
		}
		r.Mirrors = append(r.Mirrors, Mirror{Location: location, Insecure: m.Insecure, Pull: m.PullFromMirror})
	}
	return r, nil
}

// place validates a host with an optional path, and removes slashes at the end.
func place(what, s string) (string, error) {
	s = strings.TrimRight(s, "/")
	switch {
	case s == "":
		return "", fmt.Errorf("%s is missing", what)
	case strings.Contains(s, "://"):
		return "", fmt.Errorf("%s %q; write it without http:// or https://", what, s)
	case strings.ContainsAny(s, " \t\r\n@?#\\%"), strings.HasPrefix(s, "/"):
		return "", fmt.Errorf("%s %q is not a host with an optional path", what, s)
	}
	return s, nil
}

// add adds the tables of other, which replace those with the same prefix.
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

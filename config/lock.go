package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/distribution/reference"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	digest "github.com/opencontainers/go-digest"
)

// LockName is the name of the lock file, in the directory of the project file.
const LockName = "bake.lock"

// lockVersion is the only version of the format.
const lockVersion = 1

// maxLock bounds the size of a lock file in bytes.
const maxLock = 8 << 20

// Lock maps the references of a project to digests and commits, so that a moved tag does not change builds.
type Lock struct {
	// Images holds pins by normalised reference with a tag, such as docker.io/library/golang:1.26.
	Images map[string]ImagePin
	// Git holds commits by URL and reference, such as https://github.com/acme/proto.git#main. Without # it is the
	// default branch.
	Git map[string]string
	// HTTP holds digests of files by URL.
	HTTP map[string]digest.Digest
}

// ImagePin is the pin of an image reference.
type ImagePin struct {
	// Digest is the digest of the index if the tag names one, so that the pin is valid for every platform.
	Digest digest.Digest
	// From is the repository of a copy, such as registry.example.com/mirror/golang; "" is the repository of the
	// reference.
	From string
}

// NewLock returns an empty lock.
func NewLock() *Lock {
	return &Lock{Images: map[string]ImagePin{}, Git: map[string]string{}, HTTP: map[string]digest.Digest{}}
}

// Clone returns a copy.
func (l *Lock) Clone() *Lock {
	return &Lock{Images: maps.Clone(l.Images), Git: maps.Clone(l.Git), HTTP: maps.Clone(l.HTTP)}
}

// Len returns the number of pins.
func (l *Lock) Len() int { return len(l.Images) + len(l.Git) + len(l.HTTP) }

// Keys returns the pinned references and URLs: images, git, http, each sorted.
func (l *Lock) Keys() []string {
	return slices.Concat(slices.Sorted(maps.Keys(l.Images)), slices.Sorted(maps.Keys(l.Git)),
		slices.Sorted(maps.Keys(l.HTTP)))
}

// Pin returns the digest or commit of a key of any kind, or "" if it is not pinned.
func (l *Lock) Pin(key string) string {
	if p, ok := l.Images[key]; ok {
		return p.Digest.String()
	}
	if c, ok := l.Git[key]; ok {
		return c
	}
	return l.HTTP[key].String()
}

// Delete removes the pin of a key.
func (l *Lock) Delete(key string) {
	delete(l.Images, key)
	delete(l.Git, key)
	delete(l.HTTP, key)
}

// lockFile is the schema of the file.
type lockFile struct {
	Version int         `hcl:"version"`
	Images  []lockImage `hcl:"image,block"`
	Git     []lockGit   `hcl:"git,block"`
	HTTP    []lockHTTP  `hcl:"http,block"`
}

type lockImage struct {
	Ref    string    `hcl:"ref,label"`
	Digest string    `hcl:"digest"`
	From   string    `hcl:"from,optional"`
	At     hcl.Range `hcl:",def_range"`
}

type lockGit struct {
	URL    string    `hcl:"url,label"`
	Commit string    `hcl:"commit"`
	At     hcl.Range `hcl:",def_range"`
}

type lockHTTP struct {
	URL      string    `hcl:"url,label"`
	Checksum string    `hcl:"checksum"`
	At       hcl.Range `hcl:",def_range"`
}

// ReadLock reads the lock file in a directory. It returns nil if there is none. The error is of type Diagnostics,
// unless the file cannot be read.
func ReadLock(dir string) (*Lock, error) { return ReadLockIn(dir, Disk{}) }

// ReadLockIn is ReadLock for a View.
func ReadLockIn(dir string, view View) (*Lock, error) {
	src, err := readLockFile(dir, view)
	if src == nil || err != nil {
		return nil, err
	}
	return ParseLock(LockName, src)
}

// readLockFile returns the content of the lock file, or nil if there is none. It reads at most one byte more than
// ParseLock accepts.
func readLockFile(dir string, view View) ([]byte, error) {
	path, err := view.File(filepath.Join(dir, LockName))
	var file *os.File
	if err == nil {
		file, err = os.Open(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	src, err := io.ReadAll(io.LimitReader(file, maxLock+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", LockName, err)
	}
	return append([]byte{}, src...), nil
}

// ParseLock parses a lock file. name is its name in messages.
func ParseLock(name string, src []byte) (*Lock, error) {
	if len(src) > maxLock {
		return nil, Diagnostics{list: hcl.Diagnostics{problem(nil, "%s is larger than %d bytes", name, maxLock)}}
	}
	if bytes.Contains(src, []byte(markOurs)) {
		return nil, Diagnostics{list: hcl.Diagnostics{problem(nil,
			"%s has merge conflicts; to resolve them, run: bake pin --resolve", name)}}
	}
	file, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	files := map[string]*hcl.File{name: file}
	var written lockFile
	if !diags.HasErrors() {
		diags = append(diags, gohcl.DecodeBody(file.Body, nil, &written)...)
	}
	if diags.HasErrors() {
		return nil, Diagnostics{list: diags, files: files}
	}
	if written.Version != lockVersion {
		at := hcl.Range{Filename: name, Start: hcl.InitialPos, End: hcl.InitialPos}
		one := problem(&at, "unsupported lock version %d; this bake supports version %d", written.Version, lockVersion)
		return nil, Diagnostics{list: hcl.Diagnostics{one}, files: files}
	}
	l := NewLock()
	if diags = l.fill(written); diags.HasErrors() {
		return nil, Diagnostics{list: diags, files: files}
	}
	return l, nil
}

// fill checks the blocks of a file and adds their pins.
func (l *Lock) fill(written lockFile) (diags hcl.Diagnostics) {
	seen := map[string]bool{}
	add := func(at hcl.Range, kind, key string, problems ...error) bool {
		if seen[kind+key] {
			problems = append(problems, fmt.Errorf("duplicate pin of %s; keep one of the blocks", key))
		}
		seen[kind+key] = true
		err := errors.Join(problems...)
		if err != nil {
			diags = append(diags, problem(&at, "%v", err))
		}
		return err == nil
	}
	for _, i := range written.Images {
		d := digest.Digest(i.Digest)
		if add(i.At, "image", i.Ref, checkLockRef(i.Ref), checkLockDigest(i.Ref, d), checkLockFrom(i.Ref, i.From)) {
			l.Images[i.Ref] = ImagePin{d, i.From}
		}
	}
	for _, g := range written.Git {
		if add(g.At, "git", g.URL, checkLockURL(g.URL), checkLockCommit(g.URL, g.Commit)) {
			l.Git[g.URL] = g.Commit
		}
	}
	for _, h := range written.HTTP {
		d := digest.Digest(h.Checksum)
		if add(h.At, "http", h.URL, checkLockURL(h.URL), checkLockDigest(h.URL, d)) {
			l.HTTP[h.URL] = d
		}
	}
	return diags
}

func checkLockRef(ref string) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return fmt.Errorf("invalid image reference %q: %w", ref, err)
	}
	if _, digested := named.(reference.Digested); digested {
		return fmt.Errorf("%q has a digest and needs no pin; remove the block", ref)
	}
	if full := reference.TagNameOnly(named).String(); full != ref {
		return fmt.Errorf("image reference %q is not normalised; write %q", ref, full)
	}
	return nil
}

func checkLockDigest(key string, d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("invalid digest of %s: %w", key, err)
	}
	return nil
}

func checkLockFrom(ref, from string) error {
	if from == "" {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(from)
	if err != nil || !reference.IsNameOnly(named) {
		return fmt.Errorf("%s: from = %q is not a repository; use one such as registry.example.com/mirror/golang",
			ref, from)
	}
	return nil
}

// commitHash matches a full commit hash, SHA-1 or SHA-256.
var commitHash = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

func checkLockCommit(key, commit string) error {
	if !commitHash.MatchString(commit) {
		return fmt.Errorf("%s: not a full commit hash", key)
	}
	return nil
}

func checkLockURL(url string) error {
	odd := func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == unicode.ReplacementChar }
	if url == "" || strings.IndexFunc(url, odd) >= 0 {
		return fmt.Errorf("invalid URL %q", url)
	}
	return nil
}

// Format returns the content of the lock file. ParseLock of it returns an equal lock.
//
// The format is made for merges: blocks are sorted, each has its own lines, and no line depends on others. There is no
// checksum of the file, no date and no tool version. So changes of different pins on two branches merge without
// conflict, which TestLockMerges shows for 45 pairs. Changes of the same pin conflict, as they must; see
// ReadConflictedLock.
func (l *Lock) Format() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Written by `bake pin`. Pins what the project is built on. Commit it.\nversion = %d\n",
		lockVersion)
	for _, ref := range slices.Sorted(maps.Keys(l.Images)) {
		p := l.Images[ref]
		fmt.Fprintf(&b, "\nimage %s {\n  digest = %s\n", quoteLock(ref), quoteLock(p.Digest.String()))
		if p.From != "" {
			fmt.Fprintf(&b, "  from   = %s\n", quoteLock(p.From))
		}
		b.WriteString("}\n")
	}
	for _, url := range slices.Sorted(maps.Keys(l.Git)) {
		fmt.Fprintf(&b, "\ngit %s {\n  commit = %s\n}\n", quoteLock(url), quoteLock(l.Git[url]))
	}
	for _, url := range slices.Sorted(maps.Keys(l.HTTP)) {
		fmt.Fprintf(&b, "\nhttp %s {\n  checksum = %s\n}\n", quoteLock(url), quoteLock(l.HTTP[url].String()))
	}
	return b.Bytes()
}

// quoteLock returns s as an HCL string. s must not contain control characters.
func quoteLock(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", "$${", "%{", "%%{").Replace(s) + `"`
}

// Write writes the lock file in a directory atomically.
func (l *Lock) Write(dir string) error {
	if err := replaceFile(filepath.Join(dir, LockName), l.Format(), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", LockName, err)
	}
	return nil
}

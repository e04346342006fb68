package executor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/bakebuild/bake/config"
	"github.com/bakebuild/bake/planner"
)

// Bounds of what a test reads and shows.
const (
	// MaxTestOutput is how much a tested command may write to each stream, in bytes.
	MaxTestOutput = 8 << 20
	maxTestFile   = 64 << 20 // bytes of a file whose content is tested
	maxShown      = 400      // bytes of what came instead
)

// TestError says what a test wanted and what came instead.
type TestError struct{ Differences []string }

// Error gives each difference a line.
func (e *TestError) Error() string { return strings.Join(e.Differences, "\n  ") }

// CommandResult is how a tested command ended.
type CommandResult struct {
	ExitCode       int
	Stdout, Stderr []byte
}

// TestFiles are the files of an image. Paths are absolute, links are followed inside of the image; what is missing is
// fs.ErrNotExist.
type TestFiles interface {
	Stat(path string) (TestFile, error)
	Open(path string) (io.ReadCloser, error)
}

// TestFile is what a test may ask of a file.
type TestFile struct {
	Mode     uint32 // st_mode with type bits
	UID, GID uint32
}

// differences collects what is not as wanted.
type differences []string

func (d *differences) add(what, wanted, came string) {
	*d = append(*d, fmt.Sprintf("%s: wanted %s, came %s", what, wanted, came))
}

func (d differences) err() error {
	if len(d) == 0 {
		return nil
	}
	return &TestError{d}
}

// JudgeCommand compares how a command ended with what its test wants.
func JudgeCommand(t *planner.Test, r CommandResult) error {
	var d differences
	if r.ExitCode != t.ExitCode {
		d.add("exit code", strconv.Itoa(t.ExitCode), strconv.Itoa(r.ExitCode))
	}
	d.text("stdout", t.Stdout, string(r.Stdout))
	d.text("stderr", t.Stderr, string(r.Stderr))
	return d.err()
}

// text compares a text with what is wanted of it.
func (d *differences) text(what string, w config.Wanted, came string) {
	if w.Exact != nil && *w.Exact != came {
		d.add(what, shown(*w.Exact), shown(came))
	}
	for _, part := range w.Contains {
		if !strings.Contains(came, part) {
			d.add(what, "it to contain "+shown(part), shown(came))
		}
	}
	for _, e := range w.Matches {
		if !matches(e, came) {
			d.add(what, "a match of "+shown(e), shown(came))
		}
	}
	for _, e := range w.Excludes {
		if re, err := config.Expression(e); err == nil { // config has compiled it before
			if found := re.FindStringIndex(came); found != nil {
				d.add(what, "no match of "+shown(e), shown(came[found[0]:found[1]]))
			}
		}
	}
}

func matches(expression, text string) bool {
	re, err := config.Expression(expression)
	return err == nil && re.MatchString(text)
}

// shown is a text of bounded length, in quotes.
func shown(s string) string {
	if len(s) > maxShown {
		return fmt.Sprintf("%q… (%d bytes)", s[:maxShown], len(s))
	}
	return strconv.Quote(s)
}

// JudgeFile compares a file of an image with what its test wants. An error that is no TestError is about reading.
func JudgeFile(t *planner.Test, files TestFiles) error {
	var d differences
	f, err := files.Stat(t.File)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !t.Absent {
			d.add(t.File, "it to exist", "nothing of that name")
		}
		return d.err()
	case err != nil:
		return fmt.Errorf("%s: %w", t.File, err)
	case t.Absent:
		d.add(t.File, "nothing of that name", kindOf(f.Mode))
		return d.err()
	}
	d.mode(t, f)
	if err := d.owner(t, f, files); err != nil {
		return err
	}
	if err := d.content(t, f, files); err != nil {
		return fmt.Errorf("%s: %w", t.File, err)
	}
	return d.err()
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFREG:
		return "a file"
	}
	return "a special file"
}

func (d *differences) mode(t *planner.Test, f TestFile) {
	bits := f.Mode & 0o7777
	if t.Mode != "" {
		came := fmt.Sprintf("%04o", bits)
		wanted, err := strconv.ParseUint(t.Mode, 8, 12)
		same := err == nil && uint32(wanted) == bits
		if err != nil {
			came = symbolic(f.Mode)
			same = t.Mode == came
		}
		if !same {
			d.add("mode", t.Mode, came)
		}
	}
	by := map[string]uint32{"owner": 0o100, "group": 0o010, "other": 0o001, "any": 0o111}
	if t.ExecutableBy != "" && bits&by[t.ExecutableBy] == 0 {
		d.add("mode", "execution by "+t.ExecutableBy, fmt.Sprintf("%04o", bits))
	}
}

// symbolic is a mode as ls shows it.
func symbolic(mode uint32) string {
	text := []byte("-rwxrwxrwx")
	if mode&unix.S_IFMT == unix.S_IFDIR {
		text[0] = 'd'
	}
	for i := range 9 {
		if mode&(0o400>>i) == 0 {
			text[1+i] = '-'
		}
	}
	for _, s := range []struct {
		bit    uint32
		at     int
		letter byte
	}{{unix.S_ISUID, 3, 's'}, {unix.S_ISGID, 6, 's'}, {unix.S_ISVTX, 9, 't'}} {
		switch {
		case mode&s.bit == 0:
		case text[s.at] == 'x':
			text[s.at] = s.letter
		default:
			text[s.at] = s.letter - 'a' + 'A'
		}
	}
	return string(text)
}

// owner looks up names in the image's own passwd and group files.
func (d *differences) owner(t *planner.Test, f TestFile, files TestFiles) error {
	if t.Owner == "" {
		return nil
	}
	passwd, err := optional(files, "/etc/passwd")
	if err != nil {
		return err
	}
	group, err := optional(files, "/etc/group")
	if err != nil {
		return err
	}
	name, groupName, _ := strings.Cut(t.Owner, ":")
	if name != "" {
		found, err := user.GetExecUser(name, nil, strings.NewReader(passwd), strings.NewReader(group))
		switch {
		case err != nil:
			d.add("owner", t.Owner, fmt.Sprintf("%d, and the image has no user %s", f.UID, name))
		case uint32(found.Uid) != f.UID:
			d.add("owner", name, strconv.FormatUint(uint64(f.UID), 10))
		}
	}
	if groupName != "" {
		found, err := user.GetExecUser("0:"+groupName, nil, strings.NewReader(passwd), strings.NewReader(group))
		switch {
		case err != nil:
			d.add("group", groupName, fmt.Sprintf("%d, and the image has no group %s", f.GID, groupName))
		case uint32(found.Gid) != f.GID:
			d.add("group", groupName, strconv.FormatUint(uint64(f.GID), 10))
		}
	}
	return nil
}

// optional reads a small file that may be missing.
func optional(files TestFiles, path string) (string, error) {
	text, err := readFile(files, path, 10<<20)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return text, err
}

func readFile(files TestFiles, path string, most int64) (string, error) {
	r, err := files.Open(path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	raw, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(raw)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return string(raw), err
}

func (d *differences) content(t *planner.Test, f TestFile, files TestFiles) error {
	if t.Content.Empty() {
		return nil
	}
	if f.Mode&unix.S_IFMT != unix.S_IFREG {
		d.add("content", "a file", kindOf(f.Mode))
		return nil
	}
	text, err := readFile(files, t.File, maxTestFile)
	if err != nil {
		return err
	}
	d.text("content", t.Content, text)
	return nil
}

// JudgeConfig compares an image's config with what its test wants.
func JudgeConfig(t *planner.Test) error {
	var d differences
	w, c := t.Config, t.Image
	d.value("user", w.User, c.User)
	d.value("workdir", w.Workdir, c.WorkingDir)
	d.words("entrypoint", w.Entrypoint, c.Entrypoint)
	d.words("cmd", w.Cmd, c.Cmd)
	env := map[string]string{}
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		env[name] = value
	}
	d.pairs("env", w.Env, w.EnvMatches, env)
	absent(&d, "env", w.NoEnv, env)
	d.pairs("label", w.Labels, w.LabelMatches, c.Labels)
	d.present("port", ports(w.Ports), c.ExposedPorts)
	absent(&d, "port", ports(w.NoPorts), c.ExposedPorts)
	d.present("volume", w.Volumes, c.Volumes)
	absent(&d, "volume", w.NoVolumes, c.Volumes)
	return d.err()
}

// ports have a protocol: tcp unless said.
func ports(list []string) []string {
	out := slices.Clone(list)
	for i, p := range out {
		if !strings.Contains(p, "/") {
			out[i] = p + "/tcp"
		}
	}
	return out
}

func (d *differences) value(what string, wanted *string, came string) {
	if wanted != nil && *wanted != came {
		d.add(what, shown(*wanted), shown(came))
	}
}

func (d *differences) words(what string, wanted, came []string) {
	if wanted != nil && !slices.Equal(wanted, came) {
		d.add(what, fmt.Sprintf("%q", wanted), fmt.Sprintf("%q", came))
	}
}

func (d *differences) pairs(what string, wanted, expressions, came map[string]string) {
	check := func(name, as string, ok func(string) bool) {
		value, set := came[name]
		switch {
		case !set:
			d.add(what+" "+name, as, "nothing of that name")
		case !ok(value):
			d.add(what+" "+name, as, shown(value))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		check(name, shown(wanted[name]), func(v string) bool { return v == wanted[name] })
	}
	for _, name := range slices.Sorted(maps.Keys(expressions)) {
		check(name, "a match of "+shown(expressions[name]), func(v string) bool { return matches(expressions[name], v) })
	}
}

func (d *differences) present(what string, wanted []string, came map[string]struct{}) {
	for _, name := range wanted {
		if _, ok := came[name]; !ok {
			d.add(what, name, fmt.Sprintf("%q", slices.Sorted(maps.Keys(came))))
		}
	}
}

func absent[V any](d *differences, what string, unwanted []string, came map[string]V) {
	for _, name := range unwanted {
		if _, ok := came[name]; ok {
			d.add(what+" "+name, "nothing of that name", "it")
		}
	}
}

// TestFailed is the failure of a test step.
func TestFailed(s *planner.Step, err error) *StepError {
	return &StepError{Step: s.Name, Targets: s.Targets, Source: s.Source, ExitCode: -1, Err: err}
}

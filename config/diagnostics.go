package config

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Diagnostics lists the errors in project files and in the command line. Its text has, for each error, the position,
// the message and an excerpt of the file.
type Diagnostics struct {
	list  hcl.Diagnostics
	files map[string]*hcl.File
	cause error
}

// Unwrap returns the error of fetching a remote definition, if that is the cause.
func (d Diagnostics) Unwrap() error { return d.cause }

// Len returns the number of errors.
func (d Diagnostics) Len() int { return len(d.list) }

// Error implements error.
func (d Diagnostics) Error() string {
	var b strings.Builder
	for i, one := range d.list[:min(len(d.list), maxShown)] {
		if i > 0 {
			b.WriteString("\n")
		}
		d.write(&b, one)
	}
	if more := len(d.list) - maxShown; more > 0 {
		fmt.Fprintf(&b, "\nand %d more errors", more)
	}
	return strings.TrimRight(b.String(), "\n")
}

// maxShown is the maximum number of errors in the text of Diagnostics. A mistake in a template or a parent may occur in
// thousands of targets.
const maxShown = 100

// write writes one diagnostic, with the position first, as compilers do.
func (d Diagnostics) write(b *strings.Builder, one *hcl.Diagnostic) {
	if one.Subject == nil {
		fmt.Fprintf(b, "%s\n", sentence(one))
		return
	}
	at := one.Subject
	fmt.Fprintf(b, "%s:%d:%d: %s\n", at.Filename, at.Start.Line, at.Start.Column, sentence(one))
	file := d.files[at.Filename]
	if file == nil {
		return
	}
	lines := strings.Split(string(file.Bytes), "\n")
	first := max(1, at.Start.Line-1)
	if one.Context != nil {
		first = max(first, one.Context.Start.Line)
	}
	for n := first; n <= min(at.Start.Line, len(lines)); n++ {
		text := strings.TrimRight(lines[n-1], "\r")
		fmt.Fprintf(b, "%5d | %s\n", n, clip(strings.ReplaceAll(text, "\t", " ")))
	}
	width := 1
	if at.End.Line == at.Start.Line {
		width = max(1, at.End.Column-at.Start.Column)
	}
	fmt.Fprintf(b, "      | %s%s\n", strings.Repeat(" ", min(at.Start.Column-1, maxExcerpt)),
		strings.Repeat("^", min(width, maxExcerpt)))
}

// maxExcerpt is the maximum length of a line of an excerpt in bytes.
const maxExcerpt = 160

func clip(s string) string {
	if len(s) > maxExcerpt {
		return s[:maxExcerpt] + "…"
	}
	return s
}

// sentence returns the text of a diagnostic in one line, without a final full stop.
func sentence(d *hcl.Diagnostic) string {
	detail := strings.TrimSpace(d.Detail)
	if detail == "" || detail == d.Summary {
		return strings.TrimSuffix(d.Summary, ".")
	}
	return strings.TrimSuffix(d.Summary, ".") + ": " + strings.TrimSuffix(detail, ".")
}

// problem returns an error at a position, which may be nil.
func problem(at *hcl.Range, format string, args ...any) *hcl.Diagnostic {
	d := &hcl.Diagnostic{Severity: hcl.DiagError, Summary: fmt.Sprintf(format, args...)}
	if at != nil && at.Filename != "" {
		d.Subject = at
	}
	return d
}

// nearest returns a hint such as `; did you mean "tags"?` if a known name is similar to a mistyped one, or "".
func nearest(name string, known []string) string {
	if similar := Similar(name, known); similar != "" {
		return fmt.Sprintf("; did you mean %q?", similar)
	}
	return ""
}

// Similar returns the known name that a mistyped one is most similar to, "" if none is. It sorts known.
func Similar(name string, known []string) string {
	slices.Sort(known)
	best, bestAt := "", len(name)/3+2
	for _, k := range known {
		if d := distance(name, k); d < bestAt {
			best, bestAt = k, d
		}
	}
	if best == name {
		return ""
	}
	return best
}

// distance returns the edit distance of two strings: the number of bytes to insert, delete, replace or swap with their
// neighbour.
func distance(a, b string) int {
	if len(a) > 200 || len(b) > 200 {
		return len(a) + len(b)
	}
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			next[j+1] = min(row[j+1]+1, next[j]+1, row[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// failed returns the errors among diags as the error of the evaluation, sorted and without duplicates.
func (l *loader) failed(diags hcl.Diagnostics) error {
	d := Diagnostics{files: l.files}
	seen := map[string]bool{}
	for _, one := range diags {
		key := one.Summary + "\x00" + one.Detail
		if one.Subject != nil {
			key += one.Subject.String()
		}
		if one.Severity == hcl.DiagError && !seen[key] {
			seen[key] = true
			d.list = append(d.list, one)
		}
	}
	slices.SortStableFunc(d.list, byPlace)
	l.hideOutside(d.list)
	return d
}

// hideOutside replaces the diagnostics about files that the user neither named nor permitted, outside the project: a
// project from elsewhere could name any file of this machine, and a message about its syntax quotes it.
func (l *loader) hideOutside(diags hcl.Diagnostics) {
	if shown, err := strconv.ParseBool(l.opts.Env["BUILDX_BAKE_ENTITLEMENTS_FS"]); err == nil && !shown {
		return
	}
	_, dirs := (&Project{Named: l.named}).readable()
	roots := slices.Concat([]string{"."}, dirs, l.opts.Grants.read)
	links := newLinks(l.opts.Dir)
	for i, one := range diags {
		if one.Subject == nil || l.remote != nil && !filepath.IsAbs(one.Subject.Filename) {
			continue
		}
		if ok, err := links.within(one.Subject.Filename, roots); ok && err == nil {
			continue
		}
		diags[i] = problem(nil, "%s is invalid; its text is not shown because it is outside %s; to see it, "+
			"add --allow fs.read=%s", one.Subject.Filename, l.opts.Dir, one.Subject.Filename)
	}
}

// byPlace compares diagnostics by position. Those without a position come first.
func byPlace(a, b *hcl.Diagnostic) int {
	if a.Subject == nil || b.Subject == nil {
		return cmp.Compare(btoi(a.Subject != nil), btoi(b.Subject != nil))
	}
	return cmp.Or(cmp.Compare(a.Subject.Filename, b.Subject.Filename),
		cmp.Compare(a.Subject.Start.Line, b.Subject.Start.Line),
		cmp.Compare(a.Subject.Start.Column, b.Subject.Start.Column))
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// warned returns the warnings.
func (l *loader) warned() []Warning {
	var all []Warning
	for _, one := range l.warnings {
		w := Warning{Message: sentence(one)}
		if one.Subject != nil {
			w.Range = rangeOf(*one.Subject)
		}
		all = append(all, w)
	}
	return all
}

func rangeOf(r hcl.Range) Range {
	return Range{File: r.Filename, Line: r.Start.Line, Col: r.Start.Column}
}

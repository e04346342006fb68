package report

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// assets holds the parts of the page: HTML template, style sheet and script.
//
//go:embed page/page.html page/page.css page/page.js
var assets embed.FS

// escapes matches terminal escape sequences.
var escapes = regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)|[@-Z\\\\^_])")

// Limits of the output of steps in the page, in bytes. The end of each log is kept.
const (
	maxPageLog  = 64 << 10
	maxPageLogs = 16 << 20
)

// pageData is the input of the page's script.
type pageData struct {
	Run     Run                `json:"run"`
	Bars    []pageBar          `json:"bars"` // sorted by start
	Lanes   int                `json:"lanes"`
	Layers  []SharedLayer      `json:"layers"`
	Drift   [][]int            `json:"drift"`
	Logs    map[string]pageLog `json:"logs"`   // by file name
	Length  float64            `json:"length"` // seconds
	Cached  []float64          `json:"cached"` // when steps were found in the cache, in seconds since the run's start
	Waiting float64            `json:"waiting"`
}

// pageBar is one bar of the timeline. Times are in seconds since the run's start.
type pageBar struct {
	Step     int     `json:"step"` // -1 for an activity
	Name     string  `json:"name"`
	Lane     int     `json:"lane"`
	Ready    float64 `json:"ready"` // when it could have started
	Start    float64 `json:"start"`
	End      float64 `json:"end"`
	Critical bool    `json:"critical,omitempty"`
	Failed   bool    `json:"failed,omitempty"`
}

// pageLog is the end of the output of a step.
type pageLog struct {
	Text string `json:"text"`
	Cut  int64  `json:"cut,omitempty"` // number of bytes left out before Text
}

// Logs opens the log of a step by its file name. An error means that the log no longer exists.
type Logs func(name string) (io.ReadSeekCloser, error)

// WriteHTML writes the run as one self-contained page that sends no request. Text from a build is data in it, never
// markup or script.
func (r Run) WriteHTML(w io.Writer, logs Logs) error {
	data, err := json.Marshal(r.pageData(logs)) // escapes <, so the data cannot end its element
	if err != nil {
		return err
	}
	parts := map[string]string{"DATA": string(data), "TITLE": pageTitle(r)}
	for name, file := range map[string]string{"STYLE": "page.css", "PROGRAM": "page.js"} {
		raw, err := assets.ReadFile("page/" + file)
		if err != nil {
			return err
		}
		parts[name] = string(raw)
	}
	frame, err := assets.ReadFile("page/page.html")
	if err != nil {
		return err
	}
	parts["POLICY"] = fmt.Sprintf("default-src 'none'; img-src data:; style-src %s; script-src %s",
		hashOf(parts["STYLE"]), hashOf(parts["PROGRAM"]))
	_, err = io.WriteString(w, fill(string(frame), parts))
	return err
}

// fill replaces each {{NAME}} of a template by a part. It works in one pass, so a {{NAME}} inside a part is not
// replaced.
func fill(frame string, parts map[string]string) string {
	var b strings.Builder
	for {
		before, after, ok := strings.Cut(frame, "{{")
		b.WriteString(before)
		name, rest, closed := strings.Cut(after, "}}")
		if !ok || !closed {
			return b.String()
		}
		b.WriteString(parts[name])
		frame = rest
	}
}

// hashOf returns the source expression of an inline part in a Content-Security-Policy.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// pageTitle returns the page's title, with punctuation escaped for HTML.
func pageTitle(r Run) string {
	return inert(fmt.Sprintf("bake: %s %s", strings.Join(r.Targets, ", "), r.Status), maxName)
}

func (r Run) pageData(logs Logs) pageData {
	d := pageData{Run: r, Layers: r.Layers(), Drift: r.Drift(), Logs: map[string]pageLog{}, Bars: []pageBar{},
		Cached: []float64{}}
	since := func(t time.Time) float64 { return max(0, t.Sub(r.Started).Seconds()) }
	steps := map[int]int{} // of spans
	timings := r.timings()
	for step, t := range timings {
		steps[t.span] = step
	}
	var long []Span
	var index []int
	for i, s := range r.Spans {
		if s.Cached {
			d.Cached = append(d.Cached, since(s.Start))
			continue
		}
		long, index = append(long, s), append(index, i)
	}
	byDigest := r.index()
	for k, lane := range lanes(long) {
		s := long[k]
		bar := pageBar{
			Step: -1, Name: s.nameIn(byDigest), Lane: lane, Ready: since(s.Start), Start: since(s.Start),
			End:    since(s.End),
			Failed: s.Error != "",
		}
		if step, ok := steps[index[k]]; ok {
			bar.Step, bar.Ready, bar.Critical = step, since(timings[step].ready), timings[step].criticalPath
			d.Waiting += bar.Start - bar.Ready
		}
		d.Bars, d.Lanes, d.Length = append(d.Bars, bar), max(d.Lanes, lane+1), max(d.Length, bar.End)
	}
	d.Length = max(d.Length, since(r.Completed))
	d.Logs = r.pageLogs(logs)
	return d
}

// pageLogs reads the ends of the logs of steps that ran. Failed steps come first, in case the total limit is reached.
func (r Run) pageLogs(logs Logs) map[string]pageLog {
	all := map[string]pageLog{}
	left := maxPageLogs
	for _, failed := range []bool{true, false} {
		for _, s := range r.Steps {
			if s.Log == "" || !took(s) || (s.Error != "") != failed || left <= 0 || logs == nil {
				continue
			}
			log, err := readEnd(logs, s.Log, min(maxPageLog, left))
			if err != nil {
				continue // removed from the cache; the page reports it
			}
			all[s.Log] = log
			left -= len(log.Text)
		}
	}
	return all
}

// readEnd reads up to limit bytes from the end of a log. A log that is cut starts at the beginning of a line.
func readEnd(logs Logs, name string, limit int) (pageLog, error) {
	f, err := logs(name)
	if err != nil {
		return pageLog{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return pageLog{}, err
	}
	from := max(0, size-int64(limit))
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return pageLog{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, int64(limit)))
	if err != nil {
		return pageLog{}, err
	}
	if from > 0 {
		if i := bytes.IndexByte(raw, '\n'); i >= 0 {
			raw, from = raw[i+1:], from+int64(i)+1
		}
	}
	lines := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
	for i, l := range lines {
		l = escapes.ReplaceAllString(l, "")
		if j := strings.LastIndexByte(strings.TrimSuffix(l, "\r"), '\r'); j >= 0 {
			l = l[j+1:] // a terminal shows only what overwrote the line last
		}
		lines[i] = plain(l, maxPageLog)
	}
	return pageLog{Text: strings.Join(lines, "\n"), Cut: from}, nil
}

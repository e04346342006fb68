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

// assets are the parts of the page: its frame, its style and its program.
//
//go:embed page/page.html page/page.css page/page.js
var assets embed.FS

// escapes are what moves or colours the text of a terminal.
var escapes = regexp.MustCompile("\x1b(\\[[0-9;?]*[ -/]*[@-~]|\\][^\x07\x1b]*(\x07|\x1b\\\\)|[@-Z\\\\^_])")

// What the page takes of the output of steps, in bytes: the end of each.
const (
	maxPageLog  = 64 << 10
	maxPageLogs = 16 << 20
)

// pageData is what the page's program draws.
type pageData struct {
	Run     Run                `json:"run"`
	Bars    []pageBar          `json:"bars"` // of what took time, by start
	Lanes   int                `json:"lanes"`
	Layers  []SharedLayer      `json:"layers"`
	Drift   [][]int            `json:"drift"`
	Logs    map[string]pageLog `json:"logs"` // by the name of the file
	Length  float64            `json:"length"`
	Cached  []float64          `json:"cached"` // when steps were found in the cache
	Waiting float64            `json:"waiting"`
}

// pageBar is one span of the timeline. Times are seconds since the run's start.
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
	Cut  int64  `json:"cut,omitempty"` // bytes before it that are left out
}

// Logs opens the output of a step by the name of its file; an error means that it is not there any more.
type Logs func(name string) (io.ReadSeekCloser, error)

// WriteHTML writes the run as one page that needs nothing else: no request leaves it. Texts of builds are data to it, never
// markup or program.
func (r Run) WriteHTML(w io.Writer, logs Logs) error {
	data, err := json.Marshal(r.pageData(logs)) // which leaves no < in texts
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
	parts["POLICY"] = fmt.Sprintf("default-src 'none'; img-src data:; style-src %s; script-src %s", hashOf(parts["STYLE"]), hashOf(parts["PROGRAM"]))
	_, err = io.WriteString(w, fill(string(frame), parts))
	return err
}

// fill puts the parts into the places of a frame, written {{NAME}}, in one pass: what a part holds is no place.
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

// hashOf is how a policy of a page's content names an inline part.
func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// pageTitle is safe inside an element.
func pageTitle(r Run) string {
	return inert(fmt.Sprintf("bake: %s %s", strings.Join(r.Targets, ", "), r.Status), maxName)
}

func (r Run) pageData(logs Logs) pageData {
	d := pageData{Run: r, Layers: r.Layers(), Drift: r.Drift(), Logs: map[string]pageLog{}, Bars: []pageBar{}, Cached: []float64{}}
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
		bar := pageBar{Step: -1, Name: s.nameIn(byDigest), Lane: lane, Ready: since(s.Start), Start: since(s.Start), End: since(s.End), Failed: s.Error != ""}
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

// pageLogs reads the ends of the output of steps that ran, those that failed first.
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
				continue // it was removed from the cache; the page says so
			}
			all[s.Log] = log
			left -= len(log.Text)
		}
	}
	return all
}

// readEnd reads the last bytes of a log, from the beginning of a line where it is cut.
func readEnd(logs Logs, name string, most int) (pageLog, error) {
	f, err := logs(name)
	if err != nil {
		return pageLog{}, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return pageLog{}, err
	}
	from := max(0, size-int64(most))
	if _, err := f.Seek(from, io.SeekStart); err != nil {
		return pageLog{}, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, int64(most)))
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
			l = l[j+1:] // what a terminal would show of a line that is written over
		}
		lines[i] = plain(l, maxPageLog)
	}
	return pageLog{Text: strings.Join(lines, "\n"), Cut: from}, nil
}

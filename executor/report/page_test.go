package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/planner"
)

// hostileText is a step name that tries to break out of the page.
const hostileText = `</script><script>document.title="pwned"</script><img src=x onerror=alert(1)> {{DATA}} ` +
	"\u202e\x1b[31m"

// manyTargets returns a run of n targets that share a base and a step. Each has two steps of its own; four run at a
// time.
func manyTargets(n int) Run {
	run := Run{
		Version: RunVersion, ID: "20261125T101112.000-abcdef", Tool: "1.0", Engine: "embedded", Dir: "/src/shop",
		Status:  Built,
		Started: at(0).UTC(), Declared: 4 * n, Images: []Image{}, Failures: []Failure{},
		Warnings: []Warning{{Message: "use the JSON form", Rule: "JSONArgsRecommended"}},
	}
	step := func(name, kind string, from, to int, targets []string, inputs ...int) int {
		d := digest.FromString(name)
		s := Step{
			Digest: d, Name: name, Kind: kind, Targets: targets, Inputs: inputs, Status: executor.StatusRan,
			Reason: "files of src changed", Log: fmt.Sprintf("log-%d", len(run.Steps)),
			Source: []planner.Location{{File: "Dockerfile", Start: len(run.Steps) + 1}},
		}
		span := Span{Step: d, Start: at(from).UTC(), End: at(to).UTC()}
		if from == to {
			s.Status, s.Reason, s.Log, span.Cached = executor.StatusCached, "", "", true
		} else {
			s.Causes = []executor.Cause{{Kind: executor.CauseFiles, Name: "src",
				Files: []executor.FileChange{{Path: "src/main.go", How: "changed"}}}}
		}
		run.Steps, run.Spans = append(run.Steps, s), append(run.Spans, span)
		return len(run.Steps) - 1
	}
	var targets []string
	for i := range n {
		targets = append(targets, fmt.Sprintf("service-%04d", i))
	}
	run.Targets = targets
	base := step("FROM docker.io/library/debian:12", "source", 0, 0, targets)
	shared := step("RUN apt-get install build-essential", "exec", 10, 400, targets, base)
	run.Bases = []Base{
		{Ref: "docker.io/library/debian:12", Digest: digest.FromString("12"), Locked: true, Targets: targets},
		{Ref: "docker.io/library/debian:11", Digest: digest.FromString("11"), Targets: targets[:1]},
	}
	for i, t := range targets {
		from := 400 + i/4*100
		copied := step("COPY services/"+t+" /src "+hostileText, "file", from, from+20, []string{t}, shared)
		root := step("RUN make "+t, "exec", from+40, from+100, []string{t}, copied)
		run.Images = append(run.Images, Image{
			Target: t, Platform: "linux/amd64", Root: root, Tags: []string{"registry.example.com/shop/" + t + ":1.2.3"},
			Digest: digest.FromString(t), Finished: true,
			Layers: []executor.ImageLayer{
				{Digest: digest.FromString("base"), Size: 49_000_000, CreatedBy: "debian", Base: true},
				{Digest: digest.FromString("shared"), Size: 140_000_000,
					CreatedBy: "RUN apt-get install build-essential"},
				{Digest: digest.FromString(t), Size: int64(1_000_000 * (1 + i%9)), CreatedBy: "RUN make " + t},
			},
		})
	}
	run.Completed = at(500 + n/4*100).UTC()
	return run
}

// failedRun returns a run in which the first step that is not shared failed.
func failedRun() Run {
	run := manyTargets(3)
	run.Status = Failed
	run.Steps[3].Status, run.Steps[3].Error = executor.StatusFailed, "exit code 2"
	run.Spans[3].Error = "exit code 2"
	run.Failures = []Failure{{Message: "target service-0000: Dockerfile:4: exit code 2",
		Last: []string{"make: *** no rule", hostileText}, Log: run.Steps[3].Log}}
	return run
}

type memoryLog struct{ *bytes.Reader }

func (memoryLog) Close() error { return nil }

func someLogs(name string) (io.ReadSeekCloser, error) {
	if name == "log-1" {
		return nil, errors.New("removed")
	}
	return memoryLog{bytes.NewReader([]byte("\x1b[32mok\x1b[0m\r\n10%\r100% done\n" + hostileText + "\n"))}, nil
}

func page(t *testing.T, run Run) string {
	t.Helper()
	var b strings.Builder
	if err := run.WriteHTML(&b, someLogs); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestPageIsSelfContained checks that text from a build does not become markup, and that the page fetches nothing.
func TestPageIsSelfContained(t *testing.T) {
	text := page(t, failedRun())
	for _, banned := range []string{"<img src=x", "pwned\"</script>", "http://", "https://", "src=\"", "@import",
		"url(http"} {
		without := strings.ReplaceAll(text, "http://www.w3.org/2000/svg", "")
		if strings.Contains(without, banned) {
			t.Errorf("the page contains %q", banned)
		}
	}
	if n := strings.Count(text, "<script"); n != 2 {
		t.Errorf("%d scripts", n)
	}
	_, data, _ := strings.Cut(text, `<script type="application/json" id="data">`)
	data, _, _ = strings.Cut(data, "</script>")
	var got pageData
	if err := json.Unmarshal([]byte(data), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(failedRun(), got.Run); diff != "" {
		t.Error(diff)
	}
	if log := got.Logs["log-3"]; log.Text != "ok \n100% done\n</script><script>document.title=\"pwned\"</script><img "+
		"src=x onerror=alert(1)> {{DATA}} " {
		t.Errorf("log: %q", log.Text)
	}
}

// TestReadEnd checks that a log which is cut starts at the beginning of a line.
func TestReadEnd(t *testing.T) {
	long := strings.Repeat("line\n", 1000)
	log, err := readEnd(func(string) (io.ReadSeekCloser, error) {
		return memoryLog{bytes.NewReader([]byte(long))}, nil
	}, "", 103)
	if err != nil || log.Cut != 5000-100 || log.Text != strings.TrimSuffix(strings.Repeat("line\n", 20), "\n") {
		t.Errorf("got %d %q %v", log.Cut, log.Text, err)
	}
}

// TestTimings checks when steps were ready, and the critical path.
func TestTimings(t *testing.T) {
	run := manyTargets(3)
	all := run.timings()
	var critical []int
	for i, timing := range all {
		if timing.criticalPath {
			critical = append(critical, i)
		}
	}
	if len(critical) != 3 {
		t.Errorf("critical path: %v", critical)
	}
	// Eight targets, four at a time: later steps waited for slots, and the path leads to the steps that released them.
	slots := 0
	for i, timing := range manyTargets(8).timings() {
		if timing.criticalPath && timing.last > 1 && i-timing.last > 1 {
			slots++
		}
	}
	if slots != 1 {
		t.Errorf("the critical path follows %d slots, want 1", slots)
	}
	if got := all[3].start.Sub(all[3].ready); got != 20*time.Millisecond {
		t.Errorf("step 3 waited %s", got)
	}
	if got := all[1].start.Sub(all[1].ready); got != 10*time.Millisecond {
		t.Errorf("step 1 waited %s", got)
	}
}

func TestLayersAndDrift(t *testing.T) {
	run := manyTargets(3)
	layers := run.Layers()
	if len(layers) != 5 || layers[0].Digest != digest.FromString("shared") || len(layers[0].Images) != 3 ||
		len(layers[2].Images) != 1 {
		t.Errorf("layers: %+v", layers)
	}
	if diff := cmp.Diff([][]int{{0, 1}}, run.Drift()); diff != "" {
		t.Error(diff)
	}
}

// inspect is a script added to the page in a browser. It uses the page like a person and writes its findings into an
// element.
const inspect = `<script>addEventListener('load', async () => {
  const found = {}, $ = (s) => document.querySelector(s), wait = async (until) => { for (let i = 0; i < 1000 && !until(); i++) await new Promise((r) => setTimeout(r, 50)); };
  try {
    const root = document.documentElement;
    found.overflow = root.scrollWidth > root.clientWidth;
    found.title = $('#title').textContent.length > 0;
    found.bars = document.querySelectorAll('#chart rect.bar').length;
    found.critical = document.querySelectorAll('#chart rect.critical').length > 0;
    found.boxes = document.querySelectorAll('#drawing g[data-step]').length;
    found.shared = document.querySelectorAll('#drawing g.shared').length;
    found.rows = $('#step-table').tBodies[0].rows.length;
    $('#search').value = 'RUN make service-0002'; $('#search').dispatchEvent(new Event('input'));
    found.searched = $('#step-table').tBodies[0].rows.length;
    $('#step-table a').click(); await wait(() => $('#detail').open);
    found.dialog = $('#detail').open && $('#detail-title').textContent;
    found.why = $('#detail-body').textContent.includes('src/main.go (changed)');
    found.log = $('#detail-body pre').textContent.includes('100% done');
    const inside = $('#detail-body a'); inside.click(); await wait(() => $('#detail-title').textContent.startsWith('COPY'));
    found.followed = $('#detail-title').textContent.startsWith('COPY services/service-0002');
    $('#detail button').click(); await wait(() => !location.hash);
    found.closed = !$('#detail').open;
    dispatchEvent(new KeyboardEvent('keydown', { key: '/' }));
    found.slash = document.activeElement.id === 'search';
    $('#chart').focus(); for (const key of ['ArrowRight', 'ArrowRight', 'Enter']) $('#chart').dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
    await wait(() => $('#detail').open);
    found.chartKeys = $('#detail').open; $('#detail').close();
    $('#scope').value = 'service-0001'; $('#scope').dispatchEvent(new Event('change'));
    found.scoped = document.querySelectorAll('#drawing g[data-step]').length;
    found.images = $('#image-table').tBodies[0].rows.length;
    found.drift = !$('#drift').hidden;
    found.links = [...document.querySelectorAll('nav a')].every((a) => document.querySelector(a.getAttribute('href')));
    found.back = getComputedStyle(document.body).backgroundColor;
    $('#theme').click();
    found.other = getComputedStyle(document.body).backgroundColor;
    found.overflowAfter = root.scrollWidth > root.clientWidth;
    found.requests = performance.getEntriesByType('resource').length;
    found.pwned = document.title === 'pwned' || !!document.querySelector('img');
  } catch (e) { found.error = String(e.stack || e); }
  const out = document.createElement('pre'); out.id = 'found'; out.textContent = JSON.stringify(found); document.body.append(out);
});</script></body>`

// browse opens a page in Chromium, in a window of the given width, and returns the findings of inspect.
func browse(t *testing.T, text string, width int, dark bool) map[string]any {
	t.Helper()
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI must not skip: needs chromium")
		}
		t.Skip("needs chromium")
	}
	file := filepath.Join(t.TempDir(), "page.html")
	// The policy would block inspect.
	text = regexp.MustCompile(`<meta http-equiv="Content-Security-Policy"[^>]*>`).ReplaceAllString(text, "")
	text = strings.Replace(text, "</body>", inspect, 1)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	scheme := "--blink-settings=preferredColorScheme=1"
	if dark {
		scheme = "--blink-settings=preferredColorScheme=0"
	}
	out, err := exec.Command(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
		"--no-first-run", "--disable-background-networking", "--disable-component-update",
		"--disable-sync", "--disable-dev-shm-usage", "--user-data-dir="+t.TempDir(),
		fmt.Sprintf("--window-size=%d,900", width), scheme, "--virtual-time-budget=200000", "--dump-dom", "file://"+
			file).Output()
	if err != nil {
		t.Fatalf("chromium: %v", err)
	}
	_, found, ok := strings.Cut(string(out), `<pre id="found">`)
	found, _, _ = strings.Cut(found, "</pre>")
	var got map[string]any
	if err := json.Unmarshal([]byte(html.UnescapeString(found)), &got); !ok || err != nil {
		t.Fatalf("no findings: %v %.2000s", err, found)
	}
	return got
}

// TestPageInBrowser checks the page in Chromium: rendering, search, links, keyboard use and overflow, in both themes
// and with few and many targets.
func TestPageInBrowser(t *testing.T) {
	const light, dark = "rgb(255, 255, 255)", "rgb(20, 23, 27)"
	for _, c := range []struct {
		targets, width      int
		dark                bool
		bars, boxes, shared float64
	}{{3, 1280, false, 7, 8, 2}, {3, 420, true, 7, 8, 2}, {500, 1280, true, 1001, 2, 2},
		{2000, 1280, false, 1500, 2, 2}} {
		t.Run(fmt.Sprint(c.targets, " targets, ", c.width, " wide"), func(t *testing.T) {
			got := browse(t, page(t, manyTargets(c.targets)), c.width, c.dark)
			want := map[string]any{
				"overflow": false, "overflowAfter": false, "title": true, "bars": c.bars, "critical": true,
				"boxes": c.boxes, "shared": c.shared,
				"rows": min(float64(2+2*c.targets), 200), "searched": 1.0, "dialog": "RUN make service-0002",
				"why": true, "log": true, "followed": true, "closed": true,
				"slash": true, "chartKeys": true, "scoped": 4.0, "images": min(float64(c.targets), 200), "drift": true,
				"links": true, "back": light, "other": dark,
				"requests": 0.0, "pwned": false,
			}
			if c.dark {
				want["back"], want["other"] = dark, light
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

package report

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bakebuild/bake/executor"
)

// TestRecordRoundTrip checks that decoding a record gives the encoded run and summary.
func TestRecordRoundTrip(t *testing.T) {
	run := sampleRun()
	run.ID, run.Targets = "x", []string{"t"}
	run.Failures = New(Facts{Err: &executor.StepError{Step: "s", Last: []string{"a"}, Log: "/dir/x.log"}}).Failures
	run.Steps[1].Causes = []executor.Cause{{Kind: executor.CauseFiles, Name: "src",
		Files: []executor.FileChange{{Path: "a", How: "added"}}}}
	raw, err := Encode(run)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(run, got); diff != "" {
		t.Errorf("run (-want +got):\n%s", diff)
	}
	sum, err := DecodeSummary(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(run.Summary(), sum); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	if got.Failures[0].Log != "x.log" {
		t.Errorf("log %q", got.Failures[0].Log)
	}
}

// TestRecordRefused checks that newer and damaged records are errors.
func TestRecordRefused(t *testing.T) {
	raw, err := Encode(New(Facts{ID: "x"}))
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Replace(raw, []byte(`"version":1`), []byte(`"version":2`), 1)
	if _, err := Decode(newer); !errors.Is(err, ErrNewer) {
		t.Errorf("a newer record: %v", err)
	}
	for name, bad := range map[string][]byte{"empty": nil, "no line": []byte("{}"), "no JSON": []byte("x\n"),
		"cut": raw[:len(raw)-3]} {
		if _, err := Decode(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFindSteps(t *testing.T) {
	run := sampleRun()
	for query, want := range map[string]string{
		"b": "0 2", "Dockerfile:3": "2", "Dockerfile:4": "2", "Dockerfile:5": "", "other:3": "",
		run.Steps[1].Digest.Encoded()[:8]: "1",
		run.Steps[1].Digest.String():      "1", "nothing": "",
	} {
		var got []string
		for _, i := range run.FindSteps(query) {
			got = append(got, string(rune('0'+i)))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got %v, want %s", query, got, want)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	run := sampleRun()
	for range 7 {
		run.Steps = append(run.Steps, run.Steps...)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(run); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(run.Steps)), "steps")
}

package telemetry

import (
	"compress/gzip"
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/report"
)

// TestExport sends a build to a collector of its own, by each protocol: one span for the build, below the parent that
// the environment names, and one for each step that ran.
func TestExport(t *testing.T) {
	for protocol, serve := range map[string]func(*testing.T, *collected) string{"http/protobuf": collectHTTP,
		"grpc": collectGRPC} {
		t.Run(protocol, func(t *testing.T) {
			var got collected
			t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", serve(t, &got))
			exportTo(t, &got)
		})
	}
}

// collected is what a collector was sent.
type collected struct {
	collector.UnimplementedTraceServiceServer
	collector.ExportTraceServiceRequest
}

// Export implements collector.TraceServiceServer.
func (c *collected) Export(ctx context.Context,
	r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	if head, _ := metadata.FromIncomingContext(ctx); !slices.Equal(head.Get("x-key"), []string{"k"}) {
		return nil, status.Error(codes.Unauthenticated, "no key")
	}
	proto.Merge(&c.ExportTraceServiceRequest, r)
	return new(collector.ExportTraceServiceResponse), nil
}

func collectGRPC(t *testing.T, got *collected) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	collector.RegisterTraceServiceServer(server, got)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return "http://" + listener.Addr().String()
}

func collectHTTP(t *testing.T, got *collected) string {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := r.Body
		if r.Header.Get("Content-Encoding") == "gzip" {
			zr, err := gzip.NewReader(body)
			if err != nil {
				t.Error(err)
				return
			}
			body = zr
		}
		raw, err := io.ReadAll(body)
		if err != nil {
			t.Error(err)
		}
		var one collector.ExportTraceServiceRequest
		if err := proto.Unmarshal(raw, &one); err != nil {
			t.Error(err)
		}
		proto.Merge(&got.ExportTraceServiceRequest, &one)
		if r.URL.Path != "/v1/traces" || r.Header.Get("X-Key") != "k" {
			t.Errorf("request for %s with %v", r.URL.Path, r.Header)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// exportTo sends a build and checks the spans that arrive.
func exportTo(t *testing.T, got *collected) {
	t.Helper()
	for name, value := range map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "x-key=k", "OTEL_SERVICE_NAME": "ci"} {
		t.Setenv(name, value)
	}
	const traceID, parentID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	t.Setenv("TRACEPARENT", "00-"+traceID+"-"+parentID+"-01")
	start := time.Unix(1_700_000_000, 0)
	step := digest.FromString("x")
	err := Export(context.Background(), report.Run{
		ID: "1", Status: report.Failed, Targets: []string{"t"}, Started: start, Completed: start.Add(3 * time.Second),
		Failures: []report.Failure{{Message: "no luck"}},
		Steps: []report.Step{{Digest: step, Name: "RUN x", Kind: "exec", Status: executor.StatusFailed,
			Reason: "because"}},
		Spans: []report.Span{
			{Step: "sha256:cached", Start: start, End: start, Cached: true},
			{Step: step, Start: start.Add(time.Second), End: start.Add(2 * time.Second), Error: "exit code 1"},
		},
	}, "1.0", os.Getenv)
	if err != nil {
		t.Error(err)
	}
	var spans []string
	for _, r := range got.ResourceSpans {
		for _, attr := range r.Resource.Attributes {
			if attr.Key == "service.name" && attr.Value.GetStringValue() != "ci" {
				t.Errorf("service %s", attr.Value.GetStringValue())
			}
		}
		for _, scope := range r.ScopeSpans {
			for _, s := range scope.Spans {
				if hex.EncodeToString(s.TraceId) != traceID {
					t.Errorf("%s is in trace %x", s.Name, s.TraceId)
				}
				below := "its build"
				if hex.EncodeToString(s.ParentSpanId) == parentID {
					below = "TRACEPARENT"
				}
				spans = append(spans, strings.Join([]string{s.Name, below, s.Status.GetMessage(),
					time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano).String()}, " | "))
			}
		}
	}
	want := []string{"RUN x | its build | exit code 1 | 1s", "bake build | TRACEPARENT | no luck | 3s"}
	if diff := cmp.Diff(want, spans); diff != "" {
		t.Errorf("spans (-want +got):\n%s", diff)
	}
}

// TestExportIsOptional checks that nothing is sent without a collector, and that an unknown protocol is an error.
func TestExportIsOptional(t *testing.T) {
	for _, c := range []struct {
		env  map[string]string
		want string
	}{
		{nil, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, ""},
		{map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json",
		}, "protocol http/json"},
	} {
		got := ""
		env := func(name string) string { return c.env[name] }
		if err := Export(context.Background(), report.Run{Status: report.Built}, "1.0", env); err != nil {
			got = err.Error()
		}
		if !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%v: %q", c.env, got)
		}
	}
}

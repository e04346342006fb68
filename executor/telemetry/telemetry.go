// Package telemetry exports a finished build as OpenTelemetry spans to the collector that OTEL_ variables name. The
// README lists the variables that are read.
//
// It imports the executor's types and reports. It is separate from executor/report, so that users of reports do not
// link the OTLP exporters.
package telemetry

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/bakebuild/bake/executor"
	"github.com/bakebuild/bake/executor/report"
)

const (
	exportTimeout = 15 * time.Second // bounds how long a slow collector can delay the end of a build
	exportBatch   = 512              // spans in one request
)

// Export sends the spans of a build to the collector that the environment names, as children of TRACEPARENT. It does
// nothing without a collector, or if OTEL_TRACES_EXPORTER selects another exporter than otlp. Export also runs after
// ctx was cancelled, so that interrupted builds are visible.
//
// env must describe the environment of this process: the exporter and OTEL_RESOURCE_ATTRIBUTES read that directly.
func Export(ctx context.Context, run report.Run, version string, env func(name string) string) error {
	if env("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return nil
	}
	if exporter := env("OTEL_TRACES_EXPORTER"); exporter != "" && exporter != "otlp" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportTimeout)
	defer cancel()
	exporter, err := newExporter(ctx, env)
	if err != nil {
		return err
	}
	err = export(ctx, exporter, run, version, env)
	if closeErr := exporter.Shutdown(ctx); err == nil {
		err = closeErr
	}
	return err
}

func export(
	ctx context.Context, exporter sdktrace.SpanExporter, run report.Run, version string, env func(string) string,
) error {
	service, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "bake"), attribute.String("service.version", version),
	), resource.WithFromEnv())
	if err != nil {
		return fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	all := &endedSpans{}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithResource(service), sdktrace.WithSpanProcessor(all), sdktrace.WithSampler(sdktrace.AlwaysSample()),
	)
	parent := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		"traceparent": env("TRACEPARENT"), "tracestate": env("TRACESTATE"),
	})
	traceRun(parent, provider.Tracer("bake"), run)
	for batch := range slices.Chunk(all.spans, exportBatch) {
		if err := exporter.ExportSpans(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// newExporter returns an exporter for the protocol in the environment. The exporter reads all other OTEL_ variables
// from the environment of the process.
func newExporter(ctx context.Context, env func(string) string) (sdktrace.SpanExporter, error) {
	protocol := env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = env("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "", "http/protobuf":
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	}
	return nil, fmt.Errorf("protocol %s is not supported; use http/protobuf or grpc", protocol)
}

// traceRun creates a span for the build and, as its children, one for each step that ran and for each activity.
func traceRun(ctx context.Context, tracer trace.Tracer, run report.Run) {
	ctx, whole := tracer.Start(ctx, "bake build", trace.WithTimestamp(run.Started), trace.WithAttributes(
		attribute.String("bake.build", run.ID), attribute.String("bake.status", string(run.Status)),
		attribute.StringSlice("bake.targets", run.Targets),
		attribute.Int("bake.steps", len(run.Steps)), attribute.Int("bake.steps.ran", run.Count(executor.StatusRan)),
		attribute.Int("bake.steps.cached", run.Count(executor.StatusCached)),
	))
	if run.Status != report.Built {
		message := string(run.Status)
		if len(run.Failures) > 0 {
			message = run.Failures[0].Message
		}
		whole.SetStatus(codes.Error, message)
	}
	steps := map[string]report.Step{}
	for _, s := range run.Steps {
		steps[s.Digest.String()] = s
	}
	for _, s := range run.Spans {
		if s.Cached {
			continue
		}
		name := s.Name
		step, isStep := steps[s.Step.String()]
		if isStep {
			name = step.Name
		}
		attributes := trace.WithAttributes(stepAttributes(step, isStep)...)
		_, span := tracer.Start(ctx, name, trace.WithTimestamp(s.Start), attributes)
		if s.Error != "" {
			span.SetStatus(codes.Error, s.Error)
		}
		span.End(trace.WithTimestamp(s.End))
	}
	whole.End(trace.WithTimestamp(run.Completed))
}

func stepAttributes(s report.Step, isStep bool) []attribute.KeyValue {
	if !isStep {
		return []attribute.KeyValue{attribute.String("bake.kind", "activity")}
	}
	text := map[string]string{
		"bake.kind": s.Kind, "bake.step": s.Digest.String(), "bake.status": string(s.Status), "bake.reason": s.Reason,
		"bake.platform": s.Platform, "bake.source": executor.Place(s.Source),
	}
	all := []attribute.KeyValue{attribute.StringSlice("bake.targets", s.Targets)}
	for _, key := range slices.Sorted(maps.Keys(text)) {
		if text[key] != "" {
			all = append(all, attribute.String(key, text[key]))
		}
	}
	return all
}

// endedSpans collects the spans that have ended. The SDK's batch processor would drop spans when its queue is full, and
// hide the collector's errors.
type endedSpans struct {
	mu    sync.Mutex
	spans []sdktrace.ReadOnlySpan
}

// OnStart implements SpanProcessor.
func (e *endedSpans) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements SpanProcessor.
func (e *endedSpans) OnEnd(s sdktrace.ReadOnlySpan) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.spans = append(e.spans, s)
}

// Shutdown implements SpanProcessor.
func (e *endedSpans) Shutdown(context.Context) error { return nil }

// ForceFlush implements SpanProcessor.
func (e *endedSpans) ForceFlush(context.Context) error { return nil }

package main

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
	exportLimit = 15 * time.Second // for all spans of a build: a collector that does not answer must not hold it up
	exportBatch = 512              // spans of one request
)

// exportSpans sends the spans of a build to the collector that the standard variables name, if they name one, as children of
// TRACEPARENT. That it does not answer is noted and fails no build.
func (a *app) exportSpans(ctx context.Context, run report.Run) {
	if a.env("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && a.env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" {
		return
	}
	if exporter := a.env("OTEL_TRACES_EXPORTER"); exporter != "" && exporter != "otlp" || isTrue(a.env("OTEL_SDK_DISABLED")) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportLimit)
	defer cancel()
	if err := a.sendSpans(ctx, run); err != nil {
		a.note("OpenTelemetry: %v", err)
	}
}

func (a *app) sendSpans(ctx context.Context, run report.Run) (err error) {
	exporter, err := a.spanExporter(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := exporter.Shutdown(ctx); err == nil {
			err = closeErr
		}
	}()
	about, err := resource.New(ctx, resource.WithAttributes(
		attribute.String("service.name", "bake"), attribute.String("service.version", version()),
	), resource.WithFromEnv())
	if err != nil {
		return fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	all := &endedSpans{}
	provider := sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithSpanProcessor(all), sdktrace.WithSampler(sdktrace.AlwaysSample()))
	parent := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{
		"traceparent": a.env("TRACEPARENT"), "tracestate": a.env("TRACESTATE"),
	})
	traceRun(parent, provider.Tracer("bake"), run)
	for batch := range slices.Chunk(all.spans, exportBatch) {
		if err := exporter.ExportSpans(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// spanExporter speaks the protocol that the standard variables name. All else that they say it reads itself.
func (a *app) spanExporter(ctx context.Context) (sdktrace.SpanExporter, error) {
	protocol := a.env("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if protocol == "" {
		protocol = a.env("OTEL_EXPORTER_OTLP_PROTOCOL")
	}
	switch protocol {
	case "", "http/protobuf":
		return otlptracehttp.New(ctx)
	case "grpc":
		return otlptracegrpc.New(ctx)
	}
	return nil, fmt.Errorf("the protocol %s is not supported: use http/protobuf or grpc", protocol)
}

// traceRun makes a span of the build, and below it one of each step that ran and of each activity.
func traceRun(ctx context.Context, tracer trace.Tracer, run report.Run) {
	ctx, whole := tracer.Start(ctx, "bake build", trace.WithTimestamp(run.Started), trace.WithAttributes(
		attribute.String("bake.build", run.ID), attribute.String("bake.status", string(run.Status)), attribute.StringSlice("bake.targets", run.Targets),
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
		_, span := tracer.Start(ctx, name, trace.WithTimestamp(s.Start), trace.WithAttributes(stepAttributes(step, isStep)...))
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

// endedSpans keeps the spans that have ended.
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

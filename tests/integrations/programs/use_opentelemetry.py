"""OpenTelemetry's instrumentation of asyncio: a span for each task, with the right parent."""

import asyncio

from inside import check_loop
from opentelemetry import trace
from opentelemetry.instrumentation.asyncio import AsyncioInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import uringloop

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
AsyncioInstrumentor().instrument()


async def work(number):
    with trace.get_tracer(__name__).start_as_current_span(f"work {number}"):
        await asyncio.to_thread(int)


async def main():
    check_loop()
    with trace.get_tracer(__name__).start_as_current_span("main") as span:
        await asyncio.gather(*(work(number) for number in range(10)))
    return span.get_span_context().trace_id


trace_id = uringloop.run(main())
found = spans.get_finished_spans()
assert {span.name for span in found} >= {f"work {number}" for number in range(10)}
assert {span.context.trace_id for span in found if span.name.startswith("work")} == {trace_id}

"""uringloop.opentelemetry.instrument(): what the SDK's readers and exporters get."""

import asyncio
import contextlib
import contextvars
import functools
import time

import pytest
from support.work import SLOW_S, Echo, busy, echo_of, turns

import uringloop
from uringloop.observing.metrics import INSTRUMENTS

pytest.importorskip("opentelemetry.sdk")

from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import code_attributes

from uringloop.opentelemetry import Instrumentation, instrument


class Providers:
    def __init__(self):
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.spans = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.spans))

    def metrics(self):
        """{name: metric} of one collection."""
        data = self.reader.get_metrics_data()
        scopes = (
            [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        )
        assert {scope.scope.name for scope in scopes} <= {"uringloop"}
        return {metric.name: metric for scope in scopes for metric in scope.metrics}


@pytest.fixture
def providers():
    made = Providers()
    yield made
    made.meters.shutdown()
    made.tracers.shutdown()


@pytest.fixture
def instrumented(providers):
    with instrument(providers.meters, providers.tracers) as made:
        yield made


def points(metric):
    """{values of the attributes that not all metrics have: value}"""
    common = {"asyncio.eventloop.id", "uringloop.fdmon"}
    found = {}
    for point in metric.data.data_points:
        assert point.attributes.keys() >= common
        key = tuple(value for name, value in point.attributes.items() if name not in common)
        found[key] = point.value
    return found


def slow_turn(loop, callback=busy):
    """One slow callback; on a machine that is busy any other could be one."""
    loop.slow_callback_duration = SLOW_S
    loop.call_soon(callback, SLOW_S)
    loop.call_soon(setattr, loop, "slow_callback_duration", 1000)
    turns(loop)


# -- metrics -------------------------------------------------------------------------------------------------


def test_all_metrics_have_their_name_unit_and_kind(loop, providers, instrumented):
    loop.call_later(0, busy, 0)
    turns(loop, 2)
    found = providers.metrics()
    for one in INSTRUMENTS:
        if one.kind == "histogram":
            continue
        if one.name == "uringloop.active_requests" and loop.fdmon != "io_uring":
            assert one.name not in found
            continue
        metric = found.pop(one.name)
        assert (metric.unit, metric.description) == (one.unit, one.description)
        is_sum, is_monotonic = {
            "counter": (True, True),
            "updowncounter": (True, False),
            "gauge": (False, False),
        }[one.kind]
        assert hasattr(metric.data, "is_monotonic") == is_sum
        assert getattr(metric.data, "is_monotonic", False) == is_monotonic
    delay = {name for name in found if name.startswith("asyncio.eventloop.delay.")}
    assert {name.rpartition(".")[2] for name in delay} == {"mean", "max", "p50", "p90", "p99"}
    assert all(name.rpartition(".")[0] in {one.name for one in INSTRUMENTS} for name in found)
    assert {metric.unit for metric in found.values()} == {"s"}


def test_values_are_those_of_the_snapshot(loop, providers, instrumented):
    async def main():
        async for _ in echo_of(1000):
            pass

    with uringloop.record(loop) as recording:
        loop.run_until_complete(main())
        found, snapshot = providers.metrics(), recording.snapshot()
    assert points(found["asyncio.transport.io"]) == {("receive",): 2000, ("transmit",): 2000}
    assert points(found["asyncio.eventloop.turns"]) == {(): snapshot.statistics.turns}
    assert points(found["asyncio.eventloop.delay.p99"]) == {(): snapshot.queue_delay.percentile(99)}
    assert points(found["asyncio.eventloop.delay.max"]) == {(): snapshot.queue_delay.longest_s}
    assert points(found["asyncio.callback.duration.mean"]) == {(): snapshot.callback_time.mean_s}
    assert points(found["asyncio.eventloop.time"])["active", "callbacks"] == snapshot.time.callbacks


def test_percentiles_are_those_since_the_reading_before(loop, providers, instrumented):
    loop.call_soon(busy, SLOW_S)
    turns(loop)
    (longest,) = points(providers.metrics()["asyncio.callback.duration.max"]).values()
    assert longest >= SLOW_S
    turns(loop)
    (longest,) = points(providers.metrics()["asyncio.callback.duration.max"]).values()
    assert longest < SLOW_S
    assert "asyncio.callback.duration.max" not in providers.metrics()  # nothing ran since


def test_each_collection_reads_the_loops_once(loop, providers, monkeypatch):
    from uringloop.observing import opentelemetry as ours

    n_read = 0

    class Counting(ours.RecordedLoops):
        def read(self):
            nonlocal n_read
            n_read += 1
            return super().read()

    monkeypatch.setattr(ours, "RecordedLoops", Counting)
    with instrument(providers.meters, providers.tracers):
        for expected in (1, 2, 3):
            providers.metrics()
            assert n_read == expected


def test_a_provider_gets_the_loops_once_at_a_time(loop, providers):
    turns(loop)
    first = instrument(providers.meters, providers.tracers)
    assert isinstance(first, Instrumentation)
    with pytest.raises(RuntimeError, match="published to this meter provider already"):
        instrument(providers.meters, providers.tracers)
    assert providers.metrics()
    first.close()
    first.close()
    assert providers.metrics() == {}
    assert loop._watched_by == {}
    with instrument(providers.meters, providers.tracers):
        assert points(providers.metrics()["uringloop.watched_fds"]) == {(): loop.statistics().handlers}


def test_without_providers_the_global_ones_are_used(loop):
    with instrument():  # those that do nothing
        slow_turn(loop)


# -- spans ---------------------------------------------------------------------------------------------------


def test_a_slow_callback_has_a_span_of_its_time(loop, providers, instrumented):
    before_ns = time.time_ns()
    slow_turn(loop)
    (span,) = providers.spans.get_finished_spans()
    assert span.name == "slow callback support.work.busy"
    assert before_ns - 1_000_000 <= span.start_time < span.end_time <= time.time_ns()
    assert span.end_time - span.start_time >= SLOW_S * 1e9 * 0.999
    assert span.parent is None
    assert span.attributes == {
        "asyncio.eventloop.id": "0",
        code_attributes.CODE_FUNCTION_NAME: "support.work.busy",
        code_attributes.CODE_FILE_PATH: busy.__code__.co_filename,
        code_attributes.CODE_LINE_NUMBER: busy.__code__.co_firstlineno,
    }


def test_the_parent_is_the_span_that_is_current_in_the_task(loop, providers, instrumented):
    loop.slow_callback_duration = SLOW_S

    async def handle(name):
        with providers.tracers.get_tracer("test").start_as_current_span(name):
            await asyncio.sleep(0)
            busy(SLOW_S)
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(handle("one"), loop.create_task(handle("two"), name="importer"))

    loop.run_until_complete(main())
    spans = providers.spans.get_finished_spans()
    requests = {span.name: span for span in spans if not span.name.startswith("slow")}
    slow = {span.parent.span_id: span for span in spans if span.name.endswith("handle")}
    for name in ("one", "two"):
        mine = slow[requests[name].context.span_id]
        assert mine.context.trace_id == requests[name].context.trace_id
        assert mine.attributes["code.function.name"].endswith("handle")
        assert mine.attributes["code.line.number"] == handle.__code__.co_firstlineno
    assert slow[requests["two"].context.span_id].attributes["asyncio.task.name"] == "importer"


def test_a_request_that_begins_and_ends_in_the_slow_step_is_the_parent(loop, providers, instrumented):
    loop.slow_callback_duration = SLOW_S
    tracer = providers.tracers.get_tracer("test")

    async def handle(name):
        with tracer.start_as_current_span(name):
            with tracer.start_as_current_span("inner"):
                busy(SLOW_S)

    async def main():
        await asyncio.gather(handle("one"), handle("two"))

    loop.run_until_complete(main())
    spans = providers.spans.get_finished_spans()
    requests = {span.name: span.context for span in spans if span.name in ("one", "two")}
    parents = [span.parent.span_id for span in spans if span.name.endswith("handle")]
    assert parents == [requests["one"].span_id, requests["two"].span_id]


def test_a_provider_has_one_processor_which_notes_nothing_after_the_end(loop, providers):
    for _ in range(2):
        with instrument(providers.meters, providers.tracers) as made:
            slow_turn(loop)
    begun = made._spans.begun
    processors = providers.tracers._active_span_processor._span_processors
    assert [one is begun for one in processors] == [False, True]  # and the exporter's
    assert begun.n_users == 0
    with providers.tracers.get_tracer("test").start_as_current_span("later"):
        pass
    assert begun.first_since(0) is None


def test_the_parent_is_the_span_that_was_current_when_a_callback_was_scheduled(loop, providers, instrumented):
    loop.slow_callback_duration = SLOW_S
    with providers.tracers.get_tracer("test").start_as_current_span("request") as request:
        loop.call_soon(busy, SLOW_S)
        loop.call_later(0, busy, SLOW_S)
    loop.call_soon(busy, SLOW_S, context=contextvars.Context())
    turns(loop, 2)
    slow = [span for span in providers.spans.get_finished_spans() if span.name.endswith("busy")]
    own = request.get_span_context().span_id
    assert sorted((span.parent.span_id if span.parent else 0) for span in slow) == [0, own, own]


def test_a_context_that_is_entered_is_no_obstacle(monitor, providers):
    """The callback of a nested run, in the context of the callback that runs it."""
    loop = uringloop.Loop(fdmon=monitor, nested=True)
    loop.slow_callback_duration = SLOW_S

    async def inner():
        context = contextvars.copy_context()
        loop.call_soon(busy, SLOW_S, context=context)
        context.run(loop.run_until_complete, asyncio.sleep(0))

    with contextlib.closing(loop), instrument(providers.meters, providers.tracers):
        with providers.tracers.get_tracer("test").start_as_current_span("request") as request:
            loop.run_until_complete(inner())
    slow = [span for span in providers.spans.get_finished_spans() if span.name.endswith("busy")]
    assert [span.parent.span_id for span in slow] == [request.get_span_context().span_id]


def test_a_slow_protocol_is_named_by_its_class(loop, providers, instrumented):
    class Slow(Echo):
        def data_received(self, data):
            busy(SLOW_S)
            super().data_received(data)

    async def main():
        async with await loop.create_server(Slow, "127.0.0.1", 0) as server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            loop.slow_callback_duration = SLOW_S
            writer.write(b"x")
            await reader.readexactly(1)
            loop.slow_callback_duration = 1000
            writer.close()
            await writer.wait_closed()

    loop.run_until_complete(main())
    names = [span.attributes["code.function.name"] for span in providers.spans.get_finished_spans()]
    assert "Slow" in [name.rpartition(".")[2] for name in names]


class Callable:
    def __call__(self, seconds):
        busy(seconds)

    def method(self, seconds):
        busy(seconds)


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (functools.partial(functools.partial(busy)), "support.work.busy"),
        (Callable().method, "Callable.method"),
        (Callable(), "Callable"),
        (time.sleep, "time.sleep"),
    ],
)
def test_callbacks_are_named_by_what_they_run(loop, providers, instrumented, callback, name):
    slow_turn(loop, callback)
    (span,) = providers.spans.get_finished_spans()
    assert span.attributes["code.function.name"].endswith(name)
    assert ("code.file.path" in span.attributes) == (name != "time.sleep" and name != "Callable")


# -- the hook ------------------------------------------------------------------------------------------------


def test_a_hook_that_a_loop_has_is_still_called_and_restored(loop, providers):
    called = []
    hook = loop.slow_callback_hook = lambda what, seconds: called.append(seconds)
    with instrument(providers.meters, providers.tracers):
        slow_turn(loop)
        assert len(called) == len(providers.spans.get_finished_spans()) == 1
    assert loop.slow_callback_hook is hook
    slow_turn(loop)
    assert len(called) == 2
    assert len(providers.spans.get_finished_spans()) == 1
    loop.slow_callback_hook = None


def test_a_hook_that_was_set_meanwhile_stays(loop, providers):
    called = []
    with instrument(providers.meters, providers.tracers):
        ours = loop.slow_callback_hook

        def hook(what, seconds):
            called.append(seconds)
            ours(what, seconds)

        loop.slow_callback_hook = hook
    assert loop.slow_callback_hook is hook
    slow_turn(loop)
    assert len(called) == 1
    assert providers.spans.get_finished_spans() == ()
    loop.slow_callback_hook = None


def test_later_loops_have_it_too(new_loop, providers, instrumented):
    loop = new_loop()
    slow_turn(loop)
    assert len(providers.spans.get_finished_spans()) == 1


@pytest.mark.expects_loop_errors
def test_a_broken_tracer_breaks_no_loop(loop, loop_errors):
    class Broken(trace.TracerProvider):
        def get_tracer(self, *args, **options):
            return self

        def start_span(self, *args, **options):
            raise ZeroDivisionError

    called = []
    loop.slow_callback_hook = lambda what, seconds: called.append(what)
    with instrument(tracer_provider=Broken()):
        slow_turn(loop)
        slow_turn(loop)
    loop.slow_callback_hook = None
    assert len(called) == 2
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError] * 2


@pytest.mark.expects_loop_errors
def test_a_broken_hook_of_the_program_loses_no_span(loop, loop_errors, providers):
    def broken(what, seconds):
        raise ZeroDivisionError

    loop.slow_callback_hook = broken
    with instrument(providers.meters, providers.tracers):
        slow_turn(loop)
    loop.slow_callback_hook = None
    assert len(providers.spans.get_finished_spans()) == 1
    assert [type(context["exception"]) for context in loop_errors] == [ZeroDivisionError]

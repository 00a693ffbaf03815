"""instrument(): metrics of all loops, and spans of their slow callbacks, for OpenTelemetry.

Only its API is used: what is published where is up to the providers.  uringloop/opentelemetry.py is what users import.

The API has no histogram that is read at a time of the reader's choice.  So a distribution is published as gauges of its
percentiles since the reading before, which is what the semantic conventions of Node.js's event loop do.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import TYPE_CHECKING, Any, Self

from opentelemetry import context as otel_context
from opentelemetry import metrics as otel_metrics
from opentelemetry import trace as otel_trace
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.trace import Span, SpanContext, TracerProvider

try:
    from opentelemetry.sdk.trace import SpanProcessor
except ImportError:  # another implementation of the API
    SpanProcessor = object  # type: ignore[assignment,misc]

from .._version import __version__
from .each_loop import EachLoop, RecordedLoops, number_of
from .metrics import INSTRUMENTS, LOOP_ID, PERCENTILES, Instrument, Reading, difference

if TYPE_CHECKING:
    from types import TracebackType

    from ..eventloop.loop import Loop

_SCOPE = "uringloop"
_MOST_NOTED = 64  # spans per thread
_REPORTED_WITHIN_S = 20e-6  # from the end of a callback to its hook, usually


class Instrumentation:
    """Made by instrument(); a context manager that closes it."""

    def __init__(self, meter_provider: MeterProvider, tracer_provider: TracerProvider) -> None:
        self._metrics = _metrics_of(meter_provider)
        self._metrics.begin()
        self._spans = _Spans(tracer_provider)

    def close(self) -> None:
        """Publish no more: metrics have no values, and each loop's slow_callback_hook is what it was.  Idempotent.

        A hook that was set meanwhile stays; one that calls ours is called, and ours does nothing.
        """
        self._metrics.end()
        self._spans.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def instrument(
    meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> Instrumentation:
    """Publish metrics of all loops of this interpreter, and a span for each slow callback.

    All loops are recorded from now on, those that exist and later ones.  A callback is slow if it takes
    loop.slow_callback_duration or longer; its span begins and ends when it did.  Its parent is the span that was
    current in it when it ended; if there is none, the first that began in it, provided that the tracer provider is one
    of the SDK.  A slow_callback_hook that a loop has is still called.

    Parameters:
        meter_provider: None for the global one.
        tracer_provider: None for the global one.

    Returns: what ends it, by close() or as a context manager.

    Raises: RuntimeError if loops are published to the meter provider already.

    Thread: any.
    """
    return Instrumentation(
        meter_provider if meter_provider is not None else otel_metrics.get_meter_provider(),
        tracer_provider if tracer_provider is not None else otel_trace.get_tracer_provider(),
    )


# -- metrics -------------------------------------------------------------------------------------------------


class _Metrics:
    """What the callbacks of a meter provider's instruments read: the API cannot take instruments back."""

    def __init__(self, meter: Meter) -> None:
        self._loops: RecordedLoops | None = None
        self._readings: list[Reading] = []
        self._read_by: set[str] = set()  # the instruments that have read `_readings`
        for one in INSTRUMENTS:
            _create(meter, one, self)

    def begin(self) -> None:
        if self._loops is not None:
            raise RuntimeError("the loops are published to this meter provider already")
        self._loops = RecordedLoops()

    def end(self) -> None:
        loops, self._loops, self._readings = self._loops, None, []
        self._read_by = set()
        if loops is not None:
            loops.close()

    def readings(self, name: str) -> list[Reading]:
        """Those of one collection: it ends when an instrument reads a second time."""
        loops = self._loops
        if loops is None:
            return []
        if not self._read_by or name in self._read_by:
            self._readings, self._read_by = loops.read(), set()
        self._read_by.add(name)
        return self._readings


_published: weakref.WeakKeyDictionary[MeterProvider, _Metrics] = weakref.WeakKeyDictionary()


def _metrics_of(provider: MeterProvider) -> _Metrics:
    if provider not in _published:
        _published[provider] = _Metrics(provider.get_meter(_SCOPE, __version__))
    return _published[provider]


_Callback = Callable[[CallbackOptions], Iterable[Observation]]


def _create(meter: Meter, one: Instrument, source: _Metrics) -> None:
    if one.kind == "histogram":
        for statistic in ("mean", "max", *(f"p{percent}" for percent in PERCENTILES)):
            name = f"{one.name}.{statistic}"
            description = f"{one.description} ({statistic} since the reading before)"
            callback = _statistics(one, statistic, name, source)
            meter.create_observable_gauge(name, [callback], one.unit, description)
        return
    create: Any = {
        "counter": meter.create_observable_counter,
        "updowncounter": meter.create_observable_up_down_counter,
        "gauge": meter.create_observable_gauge,
    }[one.kind]
    create(one.name, [_values(one, source)], one.unit, one.description)


def _values(one: Instrument, source: _Metrics) -> _Callback:
    def observe(options: CallbackOptions) -> Iterator[Observation]:
        for reading in source.readings(one.name):
            for attributes, value in one.values(reading) if one.values is not None else ():
                yield Observation(value, {**reading.attributes, **attributes})

    return observe


def _statistics(one: Instrument, statistic: str, name: str, source: _Metrics) -> _Callback:
    """Nothing is observed if there was no value since the reading before."""

    def observe(options: CallbackOptions) -> Iterator[Observation]:
        for reading in source.readings(name):
            assert one.histogram is not None
            before = None if reading.before is None else one.histogram(reading.before)
            recent = difference(one.histogram(reading.now), before)
            if recent.count:
                value = {"mean": recent.mean_s, "max": recent.longest_s}.get(statistic)
                if value is None:
                    value = recent.percentile(float(statistic[1:]))
                yield Observation(value, reading.attributes)

    return observe


# -- spans ---------------------------------------------------------------------------------------------------


class _Begun(SpanProcessor):
    """Which spans each thread began last: one that begins and ends in a callback is not current at its end."""

    def __init__(self) -> None:
        self.n_users = 0
        self._of_thread = threading.local()

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:
        scope = getattr(span, "instrumentation_scope", None)
        if self.n_users and getattr(scope, "name", None) != _SCOPE:
            self._noted().append((time.monotonic(), span.get_span_context()))

    def _noted(self) -> deque[tuple[float, SpanContext]]:
        if not hasattr(self._of_thread, "noted"):
            self._of_thread.noted = deque(maxlen=_MOST_NOTED)
        found: deque[tuple[float, SpanContext]] = self._of_thread.noted
        return found

    def first_since(self, when: float) -> SpanContext | None:
        """The first that this thread began at that time or later, on the clock of time.monotonic()."""
        return next((context for began, context in self._noted() if began >= when), None)


_noting: weakref.WeakKeyDictionary[TracerProvider, _Begun] = weakref.WeakKeyDictionary()


def _begun_of(provider: TracerProvider) -> _Begun:
    if provider not in _noting:
        _noting[provider] = _Begun()
        if hasattr(provider, "add_span_processor"):
            provider.add_span_processor(_noting[provider])
    return _noting[provider]


class _Hook:
    """A loop's slow_callback_hook, which calls the one before it."""

    def __init__(self, loop: Loop, spans: _Spans) -> None:
        self.before = loop.slow_callback_hook
        self.spans = spans
        self._loop: Any = weakref.ref(loop)
        self._number = number_of(loop)

    def __call__(self, what: Any, seconds: float) -> None:
        began, end_ns = time.monotonic() - seconds - _REPORTED_WITHIN_S, time.time_ns()
        try:
            if self.before is not None:
                self.before(what, seconds)
        finally:
            if not self.spans.is_closed:
                self._trace(what, seconds, self._parent(began), end_ns)

    def _parent(self, began: float) -> otel_context.Context:
        context = self._loop()._slow_context
        parent = otel_context.Context()
        if context is not None:
            # a copy: the context itself may be entered already, further down on the stack of a nested run
            parent = context.copy().run(otel_context.get_current)
        if not otel_trace.get_current_span(parent).get_span_context().is_valid:
            first = self.spans.begun.first_since(began)
            if first is not None:
                return otel_trace.set_span_in_context(otel_trace.NonRecordingSpan(first), parent)
        return parent

    def _trace(self, what: Any, seconds: float, parent: otel_context.Context, end_ns: int) -> None:
        attributes = _described(what)
        name = attributes.get("code.function.name", type(what).__name__)
        span = self.spans.tracer.start_span(
            f"slow callback {name}",
            context=parent,
            attributes={LOOP_ID: str(self._number), **attributes},
            start_time=end_ns - int(seconds * 1e9),
        )
        span.end(end_ns)


class _Spans:
    def __init__(self, provider: TracerProvider) -> None:
        self.tracer = provider.get_tracer(_SCOPE, __version__)
        self.begun = _begun_of(provider)
        self.begun.n_users += 1
        self.is_closed = False
        self._loops = EachLoop(self._begin, self._end)

    def _begin(self, loop: Loop) -> None:
        loop.slow_callback_hook = _Hook(loop, self)

    def _end(self, loop: Loop) -> None:
        hook = loop.slow_callback_hook
        if isinstance(hook, _Hook) and hook.spans is self:
            loop.slow_callback_hook = hook.before

    def close(self) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.begun.n_users -= 1
            self._loops.close()


def _described(what: Any) -> dict[str, str | int]:
    """The attributes of a span for what the hook of slow callbacks is given, by the semantic conventions of code."""
    found: dict[str, str | int] = {}
    if isinstance(what, asyncio.Task):
        found["asyncio.task.name"] = what.get_name()
        runs: Any = what.get_coro()
        frame = getattr(runs, "cr_frame", None) or getattr(runs, "gi_frame", None)  # None once it has ended
        module = frame.f_globals.get("__name__") if frame is not None else None
        code = getattr(runs, "cr_code", None) or getattr(runs, "gi_code", None)
    else:
        runs = getattr(what, "_callback", None) if isinstance(what, asyncio.Handle) else what.get_protocol()
        while isinstance(runs, functools.partial):
            runs = runs.func
        runs = runs if hasattr(runs, "__qualname__") else type(runs)
        module = getattr(runs, "__module__", None)
        code = getattr(runs, "__code__", None)
    name = code.co_qualname if isinstance(code, CodeType) else getattr(runs, "__qualname__", None)
    if name is not None:
        found["code.function.name"] = f"{module}.{name}" if module not in (None, "builtins") else name
    if isinstance(code, CodeType):
        found["code.file.path"] = code.co_filename
        found["code.line.number"] = code.co_firstlineno
    return found

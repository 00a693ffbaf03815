"""UringloopCollector: the metrics of all loops for prometheus_client.  MetricsServer: serves them in worker processes.

uringloop/prometheus.py is what users import.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Self

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from .each_loop import RecordedLoops
from .metrics import (
    BOUNDS_S,
    INSTRUMENTS,
    OF_EACH_LOOP,
    Instrument,
    Reading,
    prometheus_label,
    prometheus_name,
    prometheus_unit,
)

if TYPE_CHECKING:
    from types import TracebackType
    from wsgiref.simple_server import WSGIServer

    from .recording import Histogram

_RETRY_S = 1.0


class UringloopCollector(Collector):
    """Records all loops of this interpreter from now on, and has their metrics collected.

    Loops that exist, those that are made later, and those of a fork child are recorded; a loop that is closed is not
    in the metrics any more.

    Parameters: registry: of prometheus_client, where it registers itself; None: nowhere.

    Raises: ValueError if the registry has one already.

    Thread: any, also while loops run in others.
    """

    def __init__(self, registry: CollectorRegistry | None = REGISTRY) -> None:
        self._registry = registry
        if registry is not None:
            registry.register(self)
        self._loops: RecordedLoops | None = RecordedLoops()

    def describe(self) -> Iterator[Metric]:
        """The metrics without values, for registries."""
        for instrument in INSTRUMENTS:
            yield _family(instrument)

    def collect(self) -> Iterator[Metric]:
        """The metrics of the loops that are open."""
        loops = self._loops
        readings = loops.read() if loops is not None else []
        for instrument in INSTRUMENTS:
            family = _family(instrument)
            for reading in readings:
                _add(family, instrument, reading)
            yield family

    def close(self) -> None:
        """Leave the registry, and record for it no more.  Idempotent."""
        loops, self._loops = self._loops, None
        if loops is not None:
            loops.close()
            if self._registry is not None:
                self._registry.unregister(self)


def _family(instrument: Instrument) -> Metric:
    name, unit = prometheus_name(instrument), prometheus_unit(instrument)
    labels = [prometheus_label(attribute) for attribute in (*OF_EACH_LOOP, *instrument.attributes)]
    if instrument.kind == "histogram":
        return HistogramMetricFamily(name, instrument.description, labels=labels, unit=unit)
    if instrument.kind == "counter":
        return CounterMetricFamily(name, instrument.description, labels=labels, unit=unit)
    return GaugeMetricFamily(name, instrument.description, labels=labels, unit=unit)


def _add(family: Metric, instrument: Instrument, reading: Reading) -> None:
    own = tuple(reading.attributes.values())
    if isinstance(family, HistogramMetricFamily):
        if instrument.histogram is not None:
            histogram = instrument.histogram(reading.now)
            family.add_metric(own, _buckets(histogram), histogram.total_s)
    elif isinstance(family, (CounterMetricFamily, GaugeMetricFamily)) and instrument.values is not None:
        for attributes, value in instrument.values(reading):
            family.add_metric((*own, *(attributes[name] for name in instrument.attributes)), value)


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    """Cumulative; the last one is the number of values that the others were counted of."""
    counts = histogram.counts_up_to((*BOUNDS_S, float("inf")))
    return [(str(bound), count) for bound, count in zip((*BOUNDS_S, "+Inf"), counts, strict=True)]


class MetricsServer:
    """Serves a registry's metrics over HTTP, in a thread, on the first of several ports that is free.

    For worker processes: each takes one, and a new worker takes that of one that has ended.  While none is free it
    tries again, each second.

    Parameters:
        ports: those to try, in this order; 0 is any free one.
        address: where to listen.
        registry: of prometheus_client.

    Raises: OSError for another reason than that all ports are in use.

    Thread: any.
    """

    def __init__(
        self,
        ports: Iterable[int],
        address: str = "127.0.0.1",
        registry: Collector = REGISTRY,
    ) -> None:
        self._ports, self._address, self._registry = tuple(ports), address, registry
        self._server: WSGIServer | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()  # a server is started, or none follows
        self._closing = threading.Event()
        if not self._start():
            self._retry = threading.Thread(target=self._start_later, name="uringloop metrics", daemon=True)
            self._retry.start()

    @property
    def port(self) -> int | None:
        """The one that it listens on; None while no port is free."""
        server = self._server
        return None if server is None else server.server_port

    def _start(self) -> bool:
        for port in self._ports:
            try:
                with self._lock:
                    if not self._closing.is_set():
                        self._server, self._thread = start_http_server(port, self._address, self._registry)
                return True
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        return False

    def _start_later(self) -> None:
        while not self._closing.wait(_RETRY_S):
            if self._start():
                return

    def close(self) -> None:
        """Listen no more.  Idempotent.  May block for half a second."""
        self._closing.set()
        with self._lock:
            server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()
            assert self._thread is not None
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

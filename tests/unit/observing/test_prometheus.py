"""UringloopCollector and MetricsServer: what Prometheus would read, parsed by prometheus_client's own parser."""

import asyncio
import contextlib
import socket
import threading
import urllib.request

import pytest
from support.selection_tools import script
from support.work import SLOW_S, busy, echo_of, turns

import uringloop
from uringloop.observing.metrics import BOUNDS_S, INSTRUMENTS, prometheus_label, prometheus_name
from uringloop.observing.recording import Histogram

prometheus_client = pytest.importorskip("prometheus_client")
parser = pytest.importorskip("prometheus_client.parser")
open_metrics = pytest.importorskip("prometheus_client.openmetrics")

from uringloop.observing.prometheus import _buckets  # noqa: E402
from uringloop.prometheus import MetricsServer, UringloopCollector  # noqa: E402


@pytest.fixture
def registry():
    return prometheus_client.CollectorRegistry()


@pytest.fixture
def collector(registry):
    with contextlib.closing(UringloopCollector(registry)) as made:
        yield made


def scraped(registry):
    """{family: Metric} of what is exposed."""
    text = prometheus_client.generate_latest(registry).decode()
    return {family.name: family for family in parser.text_string_to_metric_families(text)}


def value(registry, name, **labels):
    """The value of the one sample that has this name and these labels."""
    found = [
        sample.value
        for family in scraped(registry).values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def test_all_metrics_have_their_name_type_and_labels(loop, registry, collector):
    turns(loop)
    families = scraped(registry)
    for one in INSTRUMENTS:
        family = families.pop(prometheus_name(one))
        expected = {"updowncounter": "gauge"}.get(one.kind, one.kind)
        assert (family.type, family.documentation) == (expected, one.description)
        labels = {"asyncio_eventloop_id", "uringloop_fdmon", *map(prometheus_label, one.attributes)}
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == labels
            assert sample.name.removeprefix(family.name) in {
                "counter": {"_total"},
                "histogram": {"_bucket", "_sum", "_count"},
            }.get(expected, {""})
    assert families == {}


def test_the_format_of_openmetrics_has_the_units(loop, registry, collector):
    turns(loop)
    text = prometheus_client.openmetrics.exposition.generate_latest(registry).decode()
    assert "# UNIT asyncio_eventloop_time_seconds seconds\n" in text
    assert "# UNIT asyncio_transport_io_bytes bytes\n" in text
    assert "# UNIT asyncio_eventloop_utilization_ratio ratio\n" in text


def test_values_are_those_of_the_snapshot(loop, registry, collector):
    async def main():
        async for _ in echo_of(1000):
            pass

    with uringloop.record(loop) as recording:
        loop.run_until_complete(main())
        snapshot = recording.snapshot()
        of_statistics = snapshot.statistics
        assert value(registry, "asyncio_eventloop_turns_total") == of_statistics.turns
        received = {"network_io_direction": "receive"}
        assert (
            value(registry, "asyncio_transport_io_bytes_total", **received)
            == of_statistics.bytes_received
            == 2000
        )
        waiting = {"asyncio_eventloop_activity": "waiting", "asyncio_eventloop_state": "idle"}
        assert value(registry, "asyncio_eventloop_time_seconds_total", **waiting) == snapshot.time.waiting
        assert value(registry, "uringloop_watched_fds") == of_statistics.handlers
        tasks = sum(one.count for one in snapshot.callbacks if one.kind == "task")
        assert value(registry, "asyncio_callback_calls_total", asyncio_callback_kind="task") == tasks


def test_histograms_are_cumulative_and_complete(loop, registry, collector):
    loop.call_soon(busy, SLOW_S)
    for _ in range(10):
        loop.call_soon(busy, 0)
    turns(loop)
    with uringloop.record(loop) as recording:
        of_loop = recording.snapshot().callback_time
    family = scraped(registry)["asyncio_callback_duration_seconds"]
    counts = [sample.value for sample in family.samples if sample.name.endswith("_bucket")]
    assert len(counts) == len(BOUNDS_S) + 1
    assert counts == sorted(counts)
    name = family.name
    assert counts[-1] == value(registry, f"{name}_count") == of_loop.count == 12
    assert value(registry, f"{name}_sum") == of_loop.total_s >= SLOW_S
    assert value(registry, f"{name}_bucket", le="0.01") == 11
    assert value(registry, f"{name}_bucket", le="10.0") == 12


def test_a_value_beyond_all_bounds_is_counted():
    found = _buckets(Histogram(count=2, total_s=1000.5, longest_s=1000.0, buckets=((0.5, 1), (1000.0, 1))))
    assert found[-2:] == [("10.0", 1), ("+Inf", 2)]


def test_a_loop_that_runs_in_another_thread_is_scraped(new_loop, registry):
    loop = new_loop()
    done = threading.Event()

    async def work():
        while not done.is_set():
            async for _ in echo_of(1000):
                pass

    thread = threading.Thread(target=lambda: loop.run_until_complete(work()))
    with contextlib.closing(UringloopCollector(registry)):
        thread.start()
        before = 0.0
        for _ in range(50):
            (now,) = (
                sample.value
                for family in collect(registry)
                for sample in family.samples
                if sample.name == "asyncio_eventloop_turns_total"
            )
            assert now >= before
            before = now
        done.set()
        thread.join()
    assert before > 0


def collect(registry):
    return list(registry.collect())


def test_loops_have_labels_and_leave_when_they_close(new_loop, registry, collector):
    first, second = new_loop(), new_loop()
    turns(first)
    turns(second, 2)
    assert value(registry, "asyncio_eventloop_turns_total", asyncio_eventloop_id="0") == 1
    assert value(registry, "asyncio_eventloop_turns_total", asyncio_eventloop_id="1") == 2
    second.close()
    assert value(registry, "asyncio_eventloop_turns_total") == 1  # there is one such sample
    first.close()
    assert scraped(registry)["asyncio_eventloop_turns"].samples == []


def test_it_is_in_its_registry_once_and_until_it_is_closed(loop, registry):
    collector = UringloopCollector(registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        UringloopCollector(registry)
    collector.close()
    collector.close()
    assert collect(registry) == []
    assert loop._watched_by == {}
    UringloopCollector(registry).close()


def test_it_works_without_a_registry(loop):
    with contextlib.closing(UringloopCollector(None)) as collector:
        turns(loop)
        assert len(list(collector.collect())) == len(INSTRUMENTS)


def test_a_failed_registration_records_nothing(new_loop, registry, collector):
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        UringloopCollector(registry)
    assert len(new_loop()._watched_by) == 1


def test_a_forked_worker_has_the_metrics_of_its_own_loops(monitor):
    script(
        f"""
        import os, prometheus_client
        from uringloop.prometheus import UringloopCollector
        UringloopCollector()
        inherited = uringloop.new_event_loop(fdmon={monitor!r})
        inherited.run_until_complete(asyncio.sleep(0))
        def turns():
            lines = prometheus_client.generate_latest().decode().splitlines()
            return [float(line.split()[1]) for line in lines if line.startswith("asyncio_eventloop_turns_total")]
        (before,) = turns()

        async def main():
            pid = os.fork()
            if pid == 0:
                assert turns() == []  # a running loop does not go on in the child
                asyncio._set_running_loop(None)
                own = uringloop.new_event_loop(fdmon={monitor!r})
                own.run_until_complete(asyncio.sleep(0))
                (count,) = turns()
                assert 0 < count <= before, count
                own.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0

        inherited.run_until_complete(main())
        assert turns()[0] > before
        inherited.close()
        """
    )


# -- the server ----------------------------------------------------------------------------------------------


def fetch(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        return answer.read().decode()


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_first_free_port_is_served(taken, registry):
    registry.register(prometheus_client.Gauge("a_gauge", "For a test.", registry=None))
    with MetricsServer([taken, 0], registry=registry) as server:
        assert server.port != taken
        assert "a_gauge 0.0" in fetch(server.port)
    assert server.port is None
    server.close()


def test_a_port_is_served_as_soon_as_it_is_free(registry, monkeypatch):
    monkeypatch.setattr("uringloop.observing.prometheus._RETRY_S", 0.001)
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    with MetricsServer([port], registry=registry) as server:
        assert server.port is None
        listener.close()
        server._retry.join(60)
        assert server.port == port
        fetch(port)


def test_no_port_is_tried_after_the_end(taken, registry, monkeypatch):
    monkeypatch.setattr("uringloop.observing.prometheus._RETRY_S", 0.001)
    server = MetricsServer([taken], registry=registry)
    server.close()
    server._retry.join(60)
    assert not server._retry.is_alive()
    assert server.port is None


def test_other_errors_are_raised(registry):
    with pytest.raises(OSError, match="assign requested address"):
        MetricsServer([0], address="192.0.2.1", registry=registry)


def test_a_scrape_is_served_while_the_loop_is_blocked(loop, registry, collector):
    """It needs a thread only, not a turn."""

    async def main():
        return fetch(server.port)

    with MetricsServer([0], registry=registry) as server:
        text = loop.run_until_complete(asyncio.wait_for(main(), 60))
    assert 'asyncio_eventloop_turns_total{asyncio_eventloop_id="0"' in text

"""The dashboard for Grafana: each query uses metrics and labels that the exporter has.

With Debian's package `prometheus`, also: each query has data in a Prometheus that scrapes an application.
"""

import contextlib
import importlib.util
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import pytest

from uringloop.observing.metrics import INSTRUMENTS, OF_EACH_LOOP, prometheus_label, prometheus_name

from .documents import ROOT

DASHBOARD = json.loads((ROOT / "docs" / "grafana" / "uringloop.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
VARIABLES = DASHBOARD["templating"]["list"]

SELECTED = re.compile(r"\b(\w+)\{([^}]*)\}")
GROUPS = re.compile(r"\bby \(([^)]*)\)")


def samples():
    """{name of a sample: its labels}, without those that Prometheus adds."""
    found = {}
    for one in INSTRUMENTS:
        name = prometheus_name(one)
        labels = {prometheus_label(attribute) for attribute in (*OF_EACH_LOOP, *one.attributes)}
        if one.kind == "histogram":
            found[f"{name}_bucket"] = labels | {"le"}
            found[f"{name}_count"] = found[f"{name}_sum"] = labels
        else:
            found[f"{name}_total" if one.kind == "counter" else name] = labels
    return found


SAMPLES = samples()
OF_PROMETHEUS = {"job", "instance"}


@pytest.mark.parametrize("query", QUERIES)
def test_queries_use_what_the_exporter_has(query):
    found = SELECTED.findall(query)
    assert found
    for name, selector in found:
        assert name in SAMPLES
        known = SAMPLES[name] | OF_PROMETHEUS
        assert set(re.findall(r"(\w+)=~?\"", selector)) <= known
        for group in GROUPS.findall(query):
            assert set(group.split(", ")) <= known


@pytest.mark.parametrize("query", QUERIES)
def test_queries_are_of_the_chosen_job_and_instances(query):
    for inner in re.findall(r"\{([^}]*)\}", query):
        assert inner.startswith('job="$job", instance=~"$instance"')


def test_variables_are_defined():
    defined = {one["name"] for one in VARIABLES}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(DASHBOARD["panels"])))
    assert used == defined
    for one in VARIABLES:
        if one["type"] == "query":
            (name,) = re.findall(r"label_values\((\w+)", one["query"]["query"])
            assert name in SAMPLES


def test_each_metric_is_on_a_panel():
    shown = {name for query in QUERIES for name, _ in SELECTED.findall(query)}
    for one in INSTRUMENTS:
        if one.name != "asyncio.eventloop.utilization":  # computed from the time: right for any range
            assert any(name.startswith(prometheus_name(one)) for name in shown), one.name


def test_panels_are_numbered_and_do_not_overlap():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    cells = [
        (panel["gridPos"]["x"] + right, panel["gridPos"]["y"] + down)
        for panel in DASHBOARD["panels"]
        for right in range(panel["gridPos"]["w"])
        for down in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


# -- a real Prometheus ---------------------------------------------------------------------------------------

PATIENCE_S = 60
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None
    or shutil.which("promtool") is None
    or any(importlib.util.find_spec(name) is None for name in ("prometheus_client", "uvicorn", "starlette")),
    reason="prometheus, promtool, prometheus_client, uvicorn or starlette is not installed",
)


def fetched(url):
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        return answer.read()


def eventually(call):
    """The first result of call() that is true."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError):
            if result := call():
                return result
        assert time.monotonic() < give_up_s
        time.sleep(0.2)


@contextlib.contextmanager
def program(*command, **options):
    with subprocess.Popen([*map(str, command)], **options) as child:
        try:
            yield child
        finally:
            child.terminate()
            child.wait(PATIENCE_S)


@pytest.fixture
def application():
    """(its port, that of its metrics)"""
    example = ROOT / "examples" / "metrics_uvicorn.py"
    arguments = ("--port", 0, "--metrics-port", 0)
    with program(sys.executable, example, *arguments, stdout=subprocess.PIPE, text=True) as child:
        yield re.findall(r":(\d+)/", child.stdout.readline())


@pytest.fixture
def prometheus(application, tmp_path):
    """Its address; it scrapes the application each second."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    target = f"127.0.0.1:{application[1]}"
    jobs = [{"job_name": "service", "static_configs": [{"targets": [target]}]}]
    config = tmp_path / "prometheus.yml"  # JSON is YAML
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    options = (
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address={address}",
    )
    with program("prometheus", *options, stderr=subprocess.DEVNULL):
        eventually(lambda: fetched(f"http://{address}/-/ready"))
        yield address


@needs_prometheus
@pytest.mark.slow
def test_promtool_has_no_complaint(application):
    metrics = fetched(f"http://127.0.0.1:{application[1]}/metrics")
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics, capture_output=True, timeout=PATIENCE_S
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


@needs_prometheus
@pytest.mark.slow
def test_each_query_has_data(application, prometheus):
    def asked(query):
        query = query.replace("$job", "service").replace("$instance", ".+").replace("$__rate_interval", "1m")
        fetched(f"http://127.0.0.1:{application[0]}/")
        answer = fetched(f"http://{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
        return json.loads(answer)["data"]["result"]

    fdmon = eventually(lambda: asked("asyncio_eventloop_turns_total"))[0]["metric"]["uringloop_fdmon"]
    for query in QUERIES:
        if "uringloop_active_requests" not in query or fdmon == "io_uring":
            assert eventually(lambda query=query: asked(query)), query

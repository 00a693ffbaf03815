"""The dashboard for Grafana: each query uses metrics and labels that the exporter has."""

import json
import re

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

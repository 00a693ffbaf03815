"""Two result files of the benchmarks compared: what is a change, and what is noise."""

import pytest

from benchmarks import compare
from benchmarks.compare import Span, is_finding

CASE = "echo/protocol/1KiB/10"
MACHINE = {"cpu": "X", "n_cpus": 2, "is_virtual": True, "kernel": "6.18", "date": "today", "python": "3.11"}


def document_of(*cpus_ns, baseline_ns=10_000, **machine):
    rounds = [
        {
            "uringloop": {"cpu_ns": cpu_ns, "rate": 1e9 / cpu_ns},
            "uvloop": {"cpu_ns": baseline_ns, "rate": 1e5},
        }
        for cpu_ns in cpus_ns
    ]
    return {
        "baseline": "uvloop",
        "loops": {"uringloop": "1", "uvloop": "1"},
        "command": "run",
        "machine": MACHINE | machine,
        "cases": [{"name": CASE, "rounds": rounds, "syscalls": {}}],
    }


def row_of(text, loop="uringloop"):
    line = next(line for line in text.splitlines() if line.startswith("|") and f"| {loop} " in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_difference_below_the_spread_is_no_finding():
    assert not is_finding(Span(10, 9, 11), Span(12, 11.9, 12.1))
    assert not is_finding(Span(10, 9.9, 10.1), Span(12, 11, 13))
    assert is_finding(Span(10, 9.9, 10.1), Span(12, 11.9, 12.1))


def test_a_change_has_both_ranges():
    text = compare.compare(document_of(8000, 8100, 8200), document_of(4000, 4050, 4100), may_differ=False)
    row = row_of(text)
    assert row[2:5] == ["8.10 (8.00-8.20)", "4.05 (4.00-4.10)", "-50.0%"]
    assert row[7] == "+100.0%"
    assert row[8:] == ["1.23 (1.22-1.25)", "2.47 (2.44-2.50)", "+100.0%"]
    assert row_of(text, "uvloop")[4] == f"+0.0%, {compare.NO_FINDING}"


def test_noise_is_marked():
    text = compare.compare(document_of(7000, 8000, 9000), document_of(7100, 8200, 9100), may_differ=False)
    assert row_of(text)[4] == f"+2.5%, {compare.NO_FINDING}"


def test_the_baseline_s_own_drift_is_seen():
    """All loops are slower by a third in the new run: the ratio to the baseline says that nothing has changed."""
    old = document_of(5900, 6000, 6100)
    new = document_of(7900, 8000, 8100, baseline_ns=13_333)
    row = row_of(compare.compare(old, new, may_differ=False))
    assert row[4] == "+33.3%"
    assert row[10].endswith(compare.NO_FINDING)


def test_other_machines_are_refused_unless_allowed():
    old, new = document_of(1000, 1001), document_of(1000, 1001, kernel="6.1")
    with pytest.raises(ValueError, match=r"kernel: 6\.18, 6\.1.*--other-machine"):
        compare.compare(old, new, may_differ=False)
    assert "* **different machines**: kernel: 6.18, 6.1" in compare.compare(old, new, may_differ=True)


def test_files_without_a_common_case_are_refused():
    old, new = document_of(1000), document_of(1000)
    new["cases"][0] |= {"name": "echo/protocol/1KiB/100"}
    with pytest.raises(ValueError, match="in common"):
        compare.compare(old, new, may_differ=False)

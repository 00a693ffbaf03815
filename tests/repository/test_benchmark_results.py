"""What the benchmarks conclude from samples: which rounds count, the share of the limit, and the bars on it."""

import re
import shutil
from dataclasses import replace
from xml.dom import minidom

import pytest

from benchmarks import bars, client, everything, limits, plot, readme_plot, report, runner
from benchmarks.cases import BY_NAME, CASES, is_for
from benchmarks.machine import choose_cpus
from benchmarks.summary import better_limit, rows

CASE = "echo/protocol/1KiB/10"
SETTINGS = runner.Settings(3, 1.0, 0.3, 1.0, False, (0, 1))


def sample(cpu_ns, **more):
    traffic = {"rate": 1e9 / cpu_ns, "p50_us": 1.0, "p99_us": 2.0, "server_busy": 1.0, "client_busy": 1.0}
    return {"cpu_ns": cpu_ns, **traffic, **more}


def document_of(rounds, **case):
    loops = {loop: "1" for turn in rounds for loop in turn}
    limit_loops = {loop: [] for loop in loops if limits.is_limit(loop)}
    return {
        "baseline": "uvloop",
        "loops": loops,
        "skipped": {},
        "command": "",
        "machine": {
            key: 1
            for key in ("date", "n_cpus", "cpu", "memory_mib", "kernel", "libc", "python", "is_virtual")
        }
        | {"environment": {}},
        "settings": vars(SETTINGS),
        "cases": [{"name": CASE, "rounds": rounds, "syscalls": {}, "limits": limit_loops, **case}],
    }


def limit_rounds(*triples):
    names = ("limit-epoll", "limit-io_uring", "uringloop")
    return [dict(zip(names, map(sample, triple), strict=True)) for triple in triples]


def test_quiet_rounds_are_kept_in_their_order():
    assert runner.choose_rounds([0.2, 0.01, 0.3, 0.04, 0.0], 3, 0.05) == [1, 3, 4]


def test_the_least_disturbed_rounds_fill_up():
    assert runner.choose_rounds([0.3, 0.2, 0.01, 0.4], 2, 0.05) == [1, 2]


@pytest.mark.parametrize(
    ("loads", "n_tried", "n_repeated", "n_disturbed"),
    [
        ([0.0] * 6, 3, 0, 0),
        ([0.0, 0.3, 0.0, 0.0], 4, 1, 0),
        ([0.3] * 6, 6, 3, 3),
        ([0.3, 0.3, 0.3, 0.3, 0.0, 0.0], 6, 3, 1),
    ],
)
def test_a_disturbed_round_is_repeated_within_a_bound(loads, n_tried, n_repeated, n_disturbed):
    tried = []

    def measure_round(number):
        tried.append(number)
        return {"uringloop": sample(1.0, others_busy=loads[number])}

    rounds, *counts = runner.run_rounds(measure_round, SETTINGS, n_cpus=2)
    assert (len(tried), len(rounds)) == (n_tried, 3)
    assert counts == [n_repeated, n_disturbed]


def test_the_share_of_others_is_that_of_the_measured_cpus():
    samples = {"a": sample(1, others_busy=0.1), "b": sample(1, others_busy=0.3), "c": {"error": "failed"}}
    assert runner.foreign_share(samples, n_cpus=2) == pytest.approx(0.1)
    assert runner.foreign_share({"c": {"error": "failed"}}, n_cpus=2) == 0


def test_the_report_says_what_was_repeated_and_what_stayed_disturbed():
    text = report.markdown(document_of(limit_rounds((1, 1, 2)), repeated=2, disturbed=1))
    assert "other processes took more than 5% of the CPUs: 2\n" in text
    assert f"twice the rounds did not suffice**: {CASE} (1)\n" in text
    assert "suffice" not in report.markdown(document_of(limit_rounds((1, 1, 2)), repeated=2, disturbed=0))


def test_the_share_is_of_the_better_server_by_its_median():
    document = document_of(limit_rounds((8, 9, 10), (12, 9, 10), (12, 9, 18)))
    assert better_limit(document["cases"][0]) == "limit-io_uring"
    share = next(row.share for row in rows(document) if row.loop == "uringloop")
    assert (share.median, share.lowest, share.highest, share.n_rounds) == (0.9, 0.5, 0.9, 3)


def test_a_run_without_the_servers_has_no_share():
    assert [row.share for row in rows(document_of([{"uringloop": sample(1)}]))] == [None]


def test_a_bar_judges_the_share(monkeypatch):
    bar = bars.Bar(CASE, "share", ">=", 0.93)
    monkeypatch.setattr(bars, "BARS", (bar,))
    assert bars.check(document_of(limit_rounds((9.4, 12, 10))))[1]
    lines, is_good = bars.check(document_of(limit_rounds((9.2, 12, 10))))
    assert not is_good
    assert lines[0].startswith("FAIL")
    lines, is_good = bars.check(document_of([{"uringloop": sample(1)}]))
    assert not is_good
    assert lines[0].startswith("MISS")


def test_a_case_that_the_servers_do_not_serve_is_no_failure():
    case = BY_NAME["micro/sleep_zero"]
    assert not limits.suits(case)
    result = runner.run_case(case, ["limit-epoll"], SETTINGS, "")
    assert result["not_for"] == ["limit-epoll"]
    assert result["rounds"] == [{}] * 3
    document = document_of(limit_rounds((1, 1, 1)))
    document["cases"].append(result)
    assert "Not for this case: limit-epoll." in report.markdown(document)


def test_the_choices_of_a_server_can_be_named():
    assert limits.words_for("limit-epoll:late+staged", CASE) == ["late", "staged"]
    assert limits.words_for("limit-epoll", "micro/sleep_zero") == []


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize(
    "name",
    ["echo/protocol/1KiB/10", "echo/unix/128KiB/10", "churn/tcp/1KiB/10", "pipelined/protocol/1KiB/10"],
)
@pytest.mark.parametrize(
    "loop",
    [
        *(f"limit-epoll:{words}" for words in ("now+direct", "late+staged")),
        *(f"limit-io_uring:{words}" for words in ("inc+skip", "inc+now+sqe", "fresh+skip", "poll+now")),
    ],
)
def test_a_server_echoes_what_it_gets(loop, name):
    """The client compares during its warm-up, and fails if a byte is wrong or missing."""
    if "error" in (found := limits.probe(loop)):
        pytest.skip(found["error"])
    assert client.measure(BY_NAME[name], loop, 0.05, 0.1, choose_cpus())["messages"] > 0


def test_the_open_mode_offers_a_share_of_the_baseline_s_maximum(monkeypatch):
    case = BY_NAME["tail/protocol/1KiB/10"]
    measured = []

    def measure(case, loop, *_):
        measured.append((case.mode, loop, case.rate_per_s))
        return sample(1000, others_busy=0.0)

    monkeypatch.setattr(client, "measure", measure)
    result = runner.run_case(case, ["uringloop", "uvloop"], SETTINGS, "")
    assert measured[:3] == [("echo", "uvloop", None)] * 3
    assert measured[3:5] == [("open", "uringloop", 700_000), ("open", "uvloop", 700_000)]
    assert (result["offered_per_s"], result["maximum_of"]) == (700_000, "uvloop")


def test_a_maximum_that_cannot_be_measured_fails_the_case(monkeypatch):
    def measure(*_):
        raise client.SampleFailed("no server")

    monkeypatch.setattr(client, "measure", measure)
    result = runner.run_case(BY_NAME["tail/protocol/1KiB/10"], ["uringloop"], SETTINGS, "")
    assert "no server" in result["rounds"][0]["uringloop"]["error"]


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_open_mode_sends_at_its_rate():
    """The messages of the window are those that were scheduled in it, and each has its answer."""
    case = replace(BY_NAME["tail/protocol/1KiB/10"], rate_per_s=2000)
    found = client.measure(case, "limit-epoll", 0.2, 0.1, choose_cpus())
    assert found["unanswered"] == 0
    assert 0 < found["messages"] <= 2000
    assert found["p50_us"] <= found["p90_us"] <= found["p99_us"] <= found["p999_us"]


def measured_on_asyncio(case):
    try:
        return client.measure(case, "asyncio", 0.1, 0.1, choose_cpus())
    except client.SampleFailed as failure:
        if "built without OpenSSL" in str(failure):
            pytest.skip(str(failure))
        raise


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_the_open_mode_waits_for_encrypted_answers():
    """After the window, too: the client stops decrypting when it begins. The rate leaves a backlog at its end."""
    case = replace(BY_NAME["tail/tls/1KiB/100"], rate_per_s=20_000, n_connections=4)
    assert measured_on_asyncio(case)["messages"] > 0


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("name", ["sock/1KiB/10", "handshakes/tls/10", "pipelined/protocol/1KiB/100"])
def test_a_server_of_this_style_is_measured(name):
    """The client compares what it gets in the warm-up, and fails at a connection that ends early."""
    found = measured_on_asyncio(BY_NAME[name])
    assert 0 < found["p50_us"] <= found["p99_us"]
    assert "rss_mib" not in found


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_a_message_of_the_fanout_reaches_all():
    """The second is sent when all have the first, so there are about as many deliveries for each connection."""
    found = measured_on_asyncio(replace(BY_NAME["fanout/1KiB/1000"], n_connections=20))
    assert found["messages"] >= 20


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
@pytest.mark.parametrize("name", ["slow/protocol/1KiB/10", "slow/streams/1KiB/10", "idle/10000/1KiB/1"])
def test_connections_beside_the_measured_ones_do_not_count(name):
    case = replace(BY_NAME[name], n_connections=1, n_slow=min(3, BY_NAME[name].n_slow), n_idle=5)
    found = measured_on_asyncio(case)
    assert found["messages"] > 0
    assert found["rss_mib"] > 1


def test_the_report_has_the_memory_of_cases_that_measure_it():
    document = document_of([{"uringloop": sample(4, rss_mib=56.4)}])
    document["cases"][0]["name"] = "slow/protocol/1KiB/10"
    assert "|           56 |" in report.markdown(document)
    assert "RSS" not in report.markdown(document_of([{"uringloop": sample(4)}]))


def test_each_case_of_the_plan_has_loops_that_it_is_for():
    plan = everything.plan(everything.all_loops())
    assert [case for case, _ in plan] == list(CASES)
    assert all(is_for(case, loop) for case, loops in plan for loop in loops)
    assert all("uringloop" in loops for _, loops in plan)
    assert {bar.loop for bar in bars.BARS} <= set(everything.all_loops())


def test_the_plan_measures_what_the_bars_judge():
    plan = {case.name: loops for case, loops in everything.plan(everything.all_loops())}
    assert [bar for bar in bars.BARS if bar.loop not in plan[bar.case]] == []


def test_a_case_none_of_whose_loops_is_here_is_left_out():
    assert {case.only for case, _ in everything.plan(["uvloop"])} == {None}


def tail_document():
    latencies = {"p50_us": 40.0, "p90_us": 60.0, "p99_us": 90.0, "p999_us": 900.0}
    more = latencies | {"late_p99_us": 1.0, "offered_per_s": 1000}
    rounds = [
        {"uringloop": sample(4, **more), "uvloop": sample(5, **more | {"p999_us": 2000.0 + i})}
        for i in (0, 9)
    ]
    document = document_of(rounds)
    document["cases"][0]["name"] = "tail/protocol/1KiB/10"
    return document


def test_the_report_of_tails_has_the_percentiles_with_ranges():
    text = report.markdown(tail_document())
    assert " p99.9 us |" in text
    assert "| 2,004 (2,000-2,009) |" in text


@pytest.mark.parametrize(
    ("kind", "texts"),
    [
        ("cpu", ["1.25 uringloop"]),
        ("rate", ["1.25 uringloop"]),
        ("latency", ["p50", "p99.9", "uringloop", "uvloop", "1000"]),
    ],
)
def test_a_drawing_has_its_figures(kind, texts):
    drawing = plot.svg(tail_document(), kind)
    minidom.parseString(drawing)
    assert set(texts) <= set(re.findall(r">([^<>]+)</text>", drawing))


def test_the_drawing_of_shares_leaves_out_the_servers():
    drawing = plot.svg(document_of(limit_rounds((9, 10, 10), (9, 10, 12))), "share")
    assert "0.82 uringloop" in drawing
    assert "limit-" not in drawing
    with pytest.raises(ValueError, match="nothing to draw"):
        plot.svg(tail_document(), "share")


def test_the_plot_of_the_readme_takes_a_result_document():
    assert readme_plot.ratios_of(tail_document()) == {"tail/protocol/1KiB/10": ("1.25", 1.25, 1.25)}

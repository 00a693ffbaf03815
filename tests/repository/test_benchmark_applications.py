"""The benchmarks of whole applications: what the generator's output means, and what a missing part does."""

import http.server
import json
import shutil
import socket
import threading

import pytest

from benchmarks import cores, report, runner
from benchmarks.applications import measuring, postgresql, smtp, table, wrk
from benchmarks.cases import BY_NAME, CASES, is_for
from benchmarks.client import SampleFailed
from benchmarks.machine import choose_cpus

from .test_benchmark_results import SETTINGS, document_of, sample

NONE = {"connect": 0, "read": 0, "write": 0, "status": 0, "timeout": 0}
RESULT = {
    "requests": 5,
    "duration_us": 10,
    "p50_us": 1,
    "p90_us": 2,
    "p99_us": 3,
    "p999_us": 4,
    "errors": NONE,
}


def output_of(**changes):
    return f"Running 1s test\n  1 threads\nRequests/sec:  5\n\nJSON {json.dumps(RESULT | changes)}\n"


def test_the_result_of_wrk_is_its_line_of_json():
    assert wrk.parse(output_of()) == RESULT


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("unable to connect", "no result: unable to connect"),
        (output_of(requests=0), "nothing was answered"),
        (output_of(errors=NONE | {"status": 3, "read": 1}), "read 1, status 3"),
    ],
)
def test_a_failed_request_fails_the_sample(text, reason):
    with pytest.raises(SampleFailed, match=reason):
        wrk.parse(text)


@pytest.mark.parametrize(("seconds", "whole"), [(0.3, 1), (1.0, 1), (2.2, 3)])
def test_wrk_gets_whole_seconds(seconds, whole):
    assert wrk.whole_seconds(seconds) == whole


def test_each_application_is_a_case_for_loops_only():
    cases = [case for case in CASES if case.kind == "app"]
    assert [case.name for case in cases] == [f"app/{name}" for name in table.APPLICATIONS]
    assert not any(is_for(case, "limit-epoll") for case in cases)
    assert all(measuring.application_of(case).n_connections == case.n_connections for case in cases)


def test_the_answers_are_judged():
    right = {
        "starlette": b'{"message":"Hello, World!"}',
        "plaintext": b"Hello, World!",
        "db": b'{"id": 1, "randomNumber": 2}',
        "queries": json.dumps([{"id": 1, "randomNumber": 2}] * 20).encode(),
    }
    assert all(table.APPLICATIONS[name].is_right(body) for name, body in right.items())
    assert not table.APPLICATIONS["queries"].is_right(b"[]")
    assert not table.APPLICATIONS["starlette"].is_right(b'{"message":"Hello"}')


def test_what_is_missing_is_named(monkeypatch):
    application = table.APPLICATIONS["db"]
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None if name == "asyncpg" else name)
    assert table.missing(application) == "not installed: asyncpg (the extra bench-applications has them)"
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == "wrk" else name)
    assert table.missing(application) == "wrk is not installed (Debian: wrk)"
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == "postgres" else name)
    assert table.missing(application) == "postgres not installed (Debian: postgresql)"
    monkeypatch.setattr(shutil, "which", lambda name, **_: None if name == "redis-server" else name)
    assert (
        table.missing(table.APPLICATIONS["redis"]) == "redis-server is not installed (Debian: redis-server)"
    )
    assert table.missing(table.APPLICATIONS["httpx"]) is None
    assert table.missing(table.APPLICATIONS["json"]) is None


def test_the_module_of_a_distribution_is_looked_for(monkeypatch):
    monkeypatch.setattr(table.importlib.util, "find_spec", lambda name: None if name == "grpc" else name)
    monkeypatch.setattr(shutil, "which", lambda name, **_: name)
    assert "not installed: grpcio " in table.missing(table.APPLICATIONS["grpc"])


def test_a_request_waits_for_a_server_that_makes_its_own_socket(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    served = []

    class Greet(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(table.GREETING).encode())

        def log_message(self, *_):
            pass

    def listen(_):
        server = http.server.HTTPServer(("127.0.0.1", port), Greet)
        served.append(threading.Thread(target=server.handle_request))
        served[0].start()
        served.append(server)

    monkeypatch.setattr(measuring.time, "sleep", listen)  # the first pause: nothing listens yet
    measuring._check_answer(f"http://127.0.0.1:{port}/", table.APPLICATIONS["json"])
    thread, server = served
    thread.join()
    server.server_close()


class Answers:
    """A socket from which these are received."""

    def __init__(self, *answers):
        self.answers, self.sent = list(answers), []

    def setsockopt(self, *_):
        pass

    def recv(self, n):
        return self.answers.pop(0)

    def sendall(self, data):
        self.sent.append(data)


def test_a_message_is_sent_step_by_step(monkeypatch):
    sock = Answers(b"220 hi\r\n", *[b"250 OK\r\n"] * 3, b"354 go\r\n", b"250 OK\r\n", b"550 no\r\n")
    monkeypatch.setattr(smtp.socket, "create_connection", lambda *_: sock)
    sender = smtp._Sender(1)
    ends = []
    for _ in range(4):
        ends.append(sender.advance())
        sender.send()
    assert ends == [False, False, False, True]
    assert sock.sent == [b"HELO localhost\r\n", *(text for text, _ in smtp.DIALOGUE), smtp.DIALOGUE[0][0]]
    assert len(smtp.TEXT.removesuffix(b".\r\n")) == 1024
    with pytest.raises(SystemExit, match="550"):
        sender.advance()


def test_a_case_whose_parts_are_missing_is_left_out_of_the_report_with_the_reason(monkeypatch):
    monkeypatch.setattr(table, "missing", lambda application: "no such program")
    result = runner.run_case(BY_NAME["app/db"], ["uringloop"], SETTINGS, "")
    assert result["rounds"] == []
    document = document_of([{"uringloop": sample(1)}])
    document["cases"].append(result)
    assert "Left out: app/db (no such program)." in report.markdown(document)


def test_the_report_has_the_versions_and_bears_missing_percentiles():
    without = {key: value for key, value in sample(2000).items() if not key.startswith("p")}
    document = document_of([{"uringloop": without, "uvloop": without}])
    document["cases"][0] |= {"name": "app/plaintext", "versions": {"uvicorn": "0.54.0", "httptools": "0.9.0"}}
    text = report.markdown(document)
    assert "Versions: httptools 0.9.0, uvicorn 0.54.0." in text
    assert "|      - |      - |" in text


def test_a_fortune_is_escaped_and_not_ascii():
    page = "".join(f"<tr><td>{n}</td></tr>" for n in range(13))
    head, text = "<tr><th>id</th></tr>", f"&lt;script&gt;{postgresql.TEXTS[-1]}"
    is_right = table.APPLICATIONS["fortunes"].is_right
    assert is_right((head + page + text).encode())
    assert not is_right((head + page + text + "<script>").encode())
    assert not any("'" in text for text in postgresql.TEXTS)  # they are quoted as they are


@pytest.mark.slow
@pytest.mark.parametrize("name", ["json", "websockets", "fortunes", "granian", "httpx", "redis", "smtp"])
def test_an_application_answers(name):
    if reason := table.missing(table.APPLICATIONS[name]):
        pytest.skip(reason)
    found = measuring.measure(BY_NAME[f"app/{name}"], "asyncio", 0.1, 0.1, choose_cpus())
    assert found["messages"] > 0
    assert found["p50_us"] <= found["p99_us"]


# Several loops in one process


def member_sample(rate, memory_mb):
    return {"rate": rate, "paced_rate": 10, "p50_us": 1, "p99_us": 2, "memory_mb": memory_mb}


def test_the_gain_of_a_member_is_that_of_its_round():
    rounds = [
        {"threads/1": member_sample(100, 30), "threads/2": member_sample(150, 32)},
        {"threads/1": member_sample(200, 30), "threads/2": member_sample(400, 34)},
        {"threads/2": member_sample(300, 33)},  # the other one failed
    ]
    one, two = cores.table(rounds, ["threads"], 2).splitlines()[2:]
    assert one == "| threads | 1 | 150 |  | 10 | 1 (1-1) | 2 (2-2) |  |"
    assert two == "| threads | 2 | 300 | 1.75 (1.50-2.00) | 10 | 1 (1-1) | 2 (2-2) | 3.0 |"


def test_a_way_that_needs_a_newer_python_is_named(monkeypatch):
    monkeypatch.setattr(cores.sys, "version_info", (3, 12))
    assert cores.missing("interpreters") == "needs Python 3.13"
    assert cores.missing("asyncio-interpreters") == "needs Python 3.14"
    assert cores.missing("threads") is None


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_a_group_serves_what_wrk_sends():
    pytest.importorskip("uvicorn")
    pytest.importorskip("h11")
    found = cores.sample("threads", 2, 1, 100)
    assert found["rate"] > found["paced_rate"] > 0
    assert found["p99_us"] >= found["p50_us"] > 0

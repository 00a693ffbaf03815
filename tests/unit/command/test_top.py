"""`python -m uringloop top`: which process it asks, what it prints, and what a hostile answer cannot do."""

import json
import os
import socket
import threading

import pytest
from support.view_tools import BLOCKED, HEALTHY, service, top

from uringloop.command import asking, top_numbers
from uringloop.observing import places

rich = pytest.importorskip("rich", reason="the screen needs rich")

from rich.console import Console  # noqa: E402

from uringloop.command import top_screen  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run", numbered=True)


@pytest.fixture(scope="module")
def healthy(folder):
    with service(HEALTHY, folder) as process:
        yield process


@pytest.fixture(scope="module")
def blocked(folder):
    with service(BLOCKED, folder) as process:
        yield process


def test_without_a_pid_it_lists_the_processes(folder, healthy, blocked):
    out, _ = top(folder)
    assert {int(line.split()[0]) for line in out.splitlines()} >= {healthy.pid, blocked.pid}
    listed = json.loads(top(folder, "--json")[0])
    one = next(one for one in listed if one["pid"] == healthy.pid)
    assert one["socket"].endswith(f"/{healthy.pid}.sock")
    assert "python" in one["command"]


def test_json_is_everything(folder, healthy):
    facts = json.loads(top(folder, healthy.pid, "--json")[0])
    assert facts["process"]["pid"] == healthy.pid
    (loop,) = facts["loops"]
    assert loop["tasks"]["total"] >= 8
    assert loop["statistics"]["connections"] == 6
    assert (facts["features"] is None) == (loop["fdmon"] != "io_uring")


def test_once_prints_the_screen(folder, healthy):
    out, _ = top(folder, healthy.pid, "--once", "--interval", "0.5", COLUMNS="120")
    assert f"pid {healthy.pid}" in out
    assert "task answer" in out
    assert "cache waiting" in out


def test_a_blocked_loop_is_shown_with_what_blocks_it(folder, blocked):
    url = f"unix://{folder}/uringloop/{blocked.pid}.sock"
    out, _ = top(folder, "--url", url, "--once", "--interval", "0.2", COLUMNS="120")
    assert "loop 1 is BLOCKED" in out
    assert "in the task request 7" in out
    assert "read_a_slow_disk" in out
    assert "handle_request" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["1"], 1, "view it" if os.geteuid() else "offers no view"),
        ([str(os.getpid())], 1, "offers no view: start it with URINGLOOP_TOP=1"),
        (["999999999"], 1, "there is no process 999999999"),
        (["--url", "http://example.org/"], 1, "of the form unix://"),
        (["--url", "/nonexistent/socket"], 1, "there is no view: /nonexistent/socket"),
        (["--url", "/etc/passwd"], 1, "not a socket: /etc/passwd"),
        (["--interval", "0"], 2, "must be 0.1 to 3600 seconds"),
        (["some name"], 2, "invalid int value"),
    ],
)
def test_what_cannot_be_viewed_is_an_error_with_its_reason(tmp_path, arguments, status, message):
    _, err = top(tmp_path, *arguments, expect=status)
    assert message in err
    assert "Traceback" not in err


def test_nothing_to_view_is_said(tmp_path):
    assert "no process of this user offers a view" in top(tmp_path, expect=1)[1]


def test_the_screen_needs_a_terminal(folder, healthy):
    _, err = top(folder, healthy.pid, expect=1)
    assert "needs a terminal; --once and --json do not" in err


def test_without_rich_the_remedy_is_named(folder, healthy, tmp_path):
    (tmp_path / "rich.py").write_text("raise ImportError('hidden')")
    _, err = top(
        folder, healthy.pid, "--once", expect=1, PYTHONPATH=f"{tmp_path}:{places.Path(__file__).parents[3]}"
    )
    assert "pip install 'rich>=13'" in err


# -- answers of a process that is not to be trusted ------------------------------------------------------------


class Liar:
    """A socket that answers whatever it is given."""

    def __init__(self, folder, answer):
        self.path = folder / "liar"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.thread = threading.Thread(target=self.serve, args=(answer,))
        self.thread.start()

    def serve(self, answer):
        with self.listener, self.listener.accept()[0] as connection:
            connection.recv(100)
            try:
                for part in answer:
                    connection.sendall(part)
            except OSError:
                pass  # the client has had enough


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ([], "gave no answer"),
        ([b"\x80\x04garbage"], "is not of uringloop"),
        ([b"[" * 1_000_000], "is not of uringloop"),
        ([b"[]"], "another version"),
        ([b'{"protocol": 2}'], "another version"),
        ([b'{"protocol": 1, "error": "full"}'], "full"),
        ([b"x" * (1 << 20)] * 20, "too large"),
    ],
)
def test_an_answer_that_is_none_is_refused(tmp_path, answer, error):
    liar = Liar(tmp_path, answer)
    with pytest.raises(asking.NoView, match=error):
        asking.ask(liar.path)
    liar.thread.join()


def test_a_process_that_does_not_answer_is_given_up(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        with pytest.raises(asking.NoAnswer, match=r"no answer within 0\.1 s"):
            asking.ask(tmp_path / "silent", timeout_s=0.1)


def test_the_socket_of_another_user_is_not_believed(tmp_path, monkeypatch):
    liar = Liar(tmp_path, [b'{"protocol": 1}'])
    monkeypatch.setattr(asking.places, "peer_of", lambda connection: (1, 12345))
    monkeypatch.setattr(asking.os, "geteuid", lambda: 54321)
    monkeypatch.setattr(asking, "_check_owner", lambda status, path: None)
    with pytest.raises(asking.NoView, match="belongs to another user"):
        asking.ask(liar.path)
    liar.thread.join()


def test_a_socket_file_of_another_user_is_not_opened(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        os_stat = os.stat_result((0o140777, 1, 1, 1, 12345, 1, 0, 0, 0, 0))
        monkeypatch.setattr(asking.os, "stat", lambda path: os_stat)
        monkeypatch.setattr(asking.os, "geteuid", lambda: 54321)
        with pytest.raises(asking.NoView, match="belongs to another user"):
            asking.ask(tmp_path / "socket")


# -- the screen ------------------------------------------------------------------------------------------------


def histogram(**values):
    buckets = [[float(key.replace("_", ".").strip("s")), count] for key, count in values.items()]
    longest = max((least for least, _ in buckets), default=0.0)
    return {
        "count": sum(count for _, count in buckets),
        "total_s": 1.0,
        "longest_s": longest,
        "p50_s": 0.0,
        "p99_s": 0.0,
        "buckets": buckets,
    }


def answer_of(*, name="step", at=10.0, turns=100, tasks=(), state="waiting", loops=1):
    callback = {
        "kind": "task", "name": name, "where": "/a/b/c.py:3", "count": turns, "total_s": at / 20,
        "longest_s": 0.2, "longest_at": 1.0,
    }  # fmt: skip
    slower = {**callback, "name": "import_rows", "count": 1, "total_s": 0.1, "longest_s": 0.9}
    time = dict.fromkeys(("outside", "loop", "callbacks", "system_calls", "polling", "collecting"), 0.0)
    loop = {
        "name": "Loop", "thread": name, "native_id": 1, "fdmon": "epoll", "fdmon_reason": name, "debug": False,
        "state": state, "since_s": 3.0, "does": None, "is_recorded": True,
        "stack": [{"function": name, "file": name, "line": 1}],
        "tasks": {"total": len(tasks), "states": {"waiting": len(tasks)}, "listed": list(tasks)},
        "statistics": {"turns": turns, "syscalls": turns, "bytes_received": 0, "bytes_written": 0,
                       "connections": 3, "in_flight": 0},
        "ring": {},
        "recorded": {
            "seconds": at, "utilization": 0.5, "time": {**time, "waiting": at / 2}, "callbacks": [callback, slower],
            "queue_delay": histogram(s0_001=turns), "in_flight": {},
        },
    }  # fmt: skip
    process = {
        "pid": 7, "command": name, "python": "3.11", "has_gil": True, "kernel": "6.18", "uringloop": "0.1",
        "threads": 2, "cpu_s": 1.0, "max_rss_bytes": 1 << 24, "fds": {"open": 3, "limit": 10, "kinds": {name: 3}},
        "now": at,
    }  # fmt: skip
    found = [{**loop, "number": number} for number in range(1, loops + 1)]
    return {"protocol": 1, "process": process, "loops": found, "n_loops": loops}


def drawn(screen, width=80, height=24):
    console = Console(width=width, height=height, force_terminal=False, highlight=False)
    with console.capture() as capture:
        console.print(screen.drawn(width, height))
    return capture.get()


@pytest.fixture
def screen(tmp_path):
    made = top_screen.Screen(tmp_path / "none", answer_of(loops=3))
    made.before, made.now = made.now, answer_of(at=12.0, turns=300, loops=3)
    return made


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (40, 10), (20, 3), (200, 60)])
@pytest.mark.parametrize("page", top_screen.PAGES)
@pytest.mark.parametrize("state", ["waiting", "blocked", "stopped", "unknown"])
def test_it_fits_into_the_terminal(screen, size, page, state):
    width, height = size
    screen.now = answer_of(at=12.0, turns=300, loops=20, state=state, tasks=[task_of(n) for n in range(50)])
    screen.page = page
    screen.trouble = asking.NoAnswer("late")
    lines = drawn(screen, width, height).rstrip("\n").split("\n")
    assert len(lines) <= max(height, top_screen.LEAST_HEIGHT)
    assert max(len(line) for line in lines) <= width


def task_of(number):
    return {
        "name": f"task {number}", "coroutine": f"work {number}", "state": "waiting", "cancelling": 0,
        "awaits": [{"function": "work", "file": "x.py", "line": number}], "waits_for": "Future",
    }  # fmt: skip


def test_rates_are_of_the_time_between_two_answers(screen):
    text = drawn(screen)
    row = next(line for line in text.splitlines() if line.startswith(">"))
    assert row.split()[5:8] == ["100", "50%", "1"]  # turns/s, use, lag
    assert "syscalls 100/s" in text


def test_keys_sort_freeze_and_choose(screen):
    def first():
        lines = drawn(screen).splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith("callbacks, by"))
        return lines[at].split()[2], lines[at + 1].split()[1]

    seen = []
    for _ in top_screen.SORTS:
        seen.append(first())
        assert screen.press("s")
    assert [sort for sort, _ in seen] == list(top_screen.SORTS)
    assert dict(seen)["longest"] == "import_rows"
    assert dict(seen)["now"] == "step"
    assert screen.press("n")
    assert screen.shown()["number"] == 2
    assert screen.press("\t")
    assert screen.press("n")
    assert screen.shown()["number"] == 1
    assert screen.press("f")
    assert "FROZEN" in drawn(screen)
    screen.ask()  # asks nothing: there is no such socket
    assert screen.trouble is None
    assert screen.press("f")
    screen.ask()
    assert "there is no view: " in drawn(screen)
    assert screen.press("x")
    assert not screen.press("q")


def test_a_blocked_loop_is_chosen_unless_the_user_has_chosen(screen):
    screen.now["loops"][1]["state"] = "blocked"
    assert screen.shown()["number"] == 2
    screen.press("n")
    assert screen.shown()["number"] == 3


def test_names_are_no_commands_to_the_terminal_and_no_markup(tmp_path):
    evil = "\x1b]0;title\x07\x9b31m[red]\r\n"
    answer = answer_of(name=evil, state="blocked", tasks=[{**task_of(1), "name": evil, "coroutine": evil}])
    screen = top_screen.Screen(tmp_path, answer)
    for page in top_screen.PAGES:
        screen.page = page
        text = drawn(screen, 120, 40)
        assert not any(ord(one) < 32 and one != "\n" for one in text)
        assert "\x9b" not in text
    assert "?]0;title??31m[red]??" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 µs"),
        (0.00002, "20 µs"),
        (0.0123, "12 ms"),
        (0.5, "500 ms"),
        (3.25, "3.2 s"),
        (900, "15 min"),
    ],
)
def test_durations_are_short(seconds, text):
    assert top_screen.duration(seconds) == text


def test_the_longest_of_an_interval_is_known_to_a_sixteenth():
    before, after = histogram(s0_5=1, s1_0=1), histogram(s0_25=2, s0_5=4, s1_0=1)
    found = top_numbers.difference(before, after)
    assert found.count == 5
    assert found.longest_s == pytest.approx(0.5 * 17 / 16)
    assert found.buckets == ((0.25, 2), (0.5, 3))
    assert top_numbers.difference(None, after).longest_s == 1.0
    assert top_numbers.difference(after, after).longest_s == 0.0

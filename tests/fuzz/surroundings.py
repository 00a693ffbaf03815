"""Text from outside of the process: URINGLOOP_* in the environment, files of /proc, how a child ended."""

import contextlib
import io
import os
import pathlib
import shutil
import signal
import tempfile
from unittest import mock

import _uringloop_startup
import uringloop
from uringloop.command import surroundings
from uringloop.eventloop.children import reap
from uringloop.exceptions import MonitorUnavailable
from uringloop.fdmon.select import ANY, NAMES

from .choices import Choices

FILES = (
    "proc/self/status",
    "proc/self/uid_map",
    "proc/self/cgroup",
    "proc/1/cgroup",
    "proc/1/environ",
    "proc/version",
)
FILES += ("proc/sys/kernel/io_uring_disabled", "proc/sys/kernel/io_uring_group", "proc/self/mountinfo")
FILES += ("proc/thread-self/maps", "sys/fs/selinux/enforce", "proc/self/attr/apparmor/current")
FILES += ("run/systemd/container",)


def text_of(choices: Choices) -> str:
    """What os.environ could have: no null, any bytes."""
    return os.fsdecode(choices.bytes(choices.number()).replace(b"\0", b" "))


@contextlib.contextmanager
def environment(name: str, value: str):
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def check_poll_max(choices: Choices) -> None:
    text = text_of(choices)
    try:
        is_valid = not text or 0 <= int(text) < 1 << 63
    except ValueError:
        is_valid = False
    with environment("URINGLOOP_POLL_MAX_NS", text):
        try:
            uringloop.new_event_loop(fdmon="poll").close()
        except ValueError as error:
            is_accepted, words = False, str(error)
        else:
            is_accepted, words = True, ""
    assert is_accepted == is_valid, text
    assert is_valid or "URINGLOOP_POLL_MAX_NS" in words


def check_monitor(choices: Choices) -> None:
    text = choices.of((*NAMES, ANY, "")) if choices.below(2) else text_of(choices)
    with environment("URINGLOOP_FDMON", text):
        try:
            loop = uringloop.new_event_loop()
        except ValueError as error:
            found, words = None, str(error)
        except MonitorUnavailable:
            return
        else:
            found, words = loop.fdmon, ""
            loop.close()
    if found is None:
        assert text not in (*NAMES, ANY, "")
        assert "URINGLOOP_FDMON" in words
    else:
        assert text in ("", ANY, found)


def check_startup(choices: Choices) -> None:
    """URINGLOOP_AS: no value ends the process, or is silently wrong."""
    parts = [
        choices.of(("asyncio", "uvloop", " asyncio ", "", " ")) if choices.below(3) else text_of(choices)
        for _ in range(choices.below(4) + 1)
    ]
    text = ",".join(parts)
    called: list[str] = []
    ways = {name: lambda name=name: called.append(name) for name in ("asyncio", "uvloop")}
    errors = io.TextIOWrapper(io.BytesIO(), "ascii")
    with (
        environment("URINGLOOP_AS", text),
        mock.patch.multiple(_uringloop_startup, _WAYS=ways, _started=False),
        contextlib.redirect_stderr(errors),
    ):
        _uringloop_startup.start()
    words = [word.strip() for word in text.split(",") if word.strip()]
    assert called == [word for word in words if word in ways]
    n_lines = errors.buffer.getvalue().count(b"is ignored")
    assert n_lines >= sum(word not in ways for word in words)


def check_files(choices: Choices) -> None:
    """`doctor` raises nothing, whatever the files of the system say."""
    root = pathlib.Path(tempfile.mkdtemp())
    try:
        for _ in range(choices.below(4) + 1):
            path = root / choices.of(FILES)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(choices.bytes(choices.number()))
        found = surroundings.read(str(root), {})
        assert found.disabled in ("", "1", "2")
    finally:
        shutil.rmtree(root)


def check_exit(choices: Choices) -> None:
    """The status of a child in the form of waitid(2)."""
    code = choices.of((os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED))
    status = choices.number() if code == os.CLD_EXITED else choices.below(signal.NSIG - 1) + 1
    raw = status << 8 if code == os.CLD_EXITED else status | (0x80 if code == os.CLD_DUMPED else 0)
    result = os.waitid_result((1, 0, signal.SIGCHLD, status, code))
    with mock.patch.object(os, "waitid", return_value=result):
        assert reap(0, None) == os.waitstatus_to_exitcode(raw)  # type: ignore[arg-type]


CHECKS = (check_poll_max, check_monitor, check_startup, check_files, check_exit)


def check(data: bytes) -> None:
    choices = Choices(data)
    choices.of(CHECKS)(choices)


SEEDS = [
    *(
        b"\0" + bytes([len(text)]) + text
        for text in (b"", b"0", b"1000", b"1_000", b" 5 ", b"-1", b"1e3", b"9" * 25)
    ),
    b"\0\x03\xd9\xa3\xff",
    *(bytes([1, 1, at]) for at in range(5)),
    b"\1\0\5epoll",
    b"\1\0\6epoll ",
    b"\2\1\1\0\1\1",
    b"\2\2\1\0\0\3\xff,x\1\2",
    b"\3\2\0\x10Seccomp: 2\nCapEff: 00\1\3 \0 \0\6\0011\7\0012",
    b"\3\0\2\x1e0::/system.slice/some.service\n",
    b"\3\2\x08\x2021 1 0:1 / / rw - overlay docker x\3\x10a\0container=lxc\0\x0c\3abc",
    b"\4\0\7",
    b"\4\1\x08",
    b"\4\2\x0a",
]

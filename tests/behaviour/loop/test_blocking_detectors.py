"""Detectors of blocking calls replace functions of os and let only asyncio's own files through, as blockbuster does."""

import asyncio
import os
import sys

import pytest
from support.helpers import Recorder, open_transport, pattern, read_exactly, socketpair, turns

SIZE = 100_000
_LET_THROUGH = {
    "sendfile": {
        ("asyncio/unix_events.py", "_sock_sendfile_native_impl"),
        ("asyncio/base_events.py", "sendfile"),
    },
    "stat": {("asyncio/unix_events.py", "create_unix_server"), ("asyncio/unix_events.py", "_stop_serving")},
    "unlink": {("asyncio/unix_events.py", "_stop_serving")},
}


def _is_called_from(places):
    frame = sys._getframe(2)
    while frame is not None:
        if any(
            frame.f_code.co_filename.endswith(file) and frame.f_code.co_name == name for file, name in places
        ):
            return True
        frame = frame.f_back
    return False


@pytest.fixture
def reports(monkeypatch):
    """The names of the functions that a detector reports."""
    reported = []

    def watch(name, places):
        original = getattr(os, name)

        def detect(*args, **kwargs):
            if not _is_called_from(places):
                reported.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, detect)

    for name, places in _LET_THROUGH.items():
        watch(name, places)
    return reported


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pattern(SIZE))
    with open(path, "rb") as opened:
        yield opened


async def test_sock_sendfile_is_not_reported(file, reports):
    near, far = socketpair("unix")
    with near, far:
        near.setblocking(False)
        far.setblocking(False)
        task = asyncio.ensure_future(asyncio.get_running_loop().sock_sendfile(near, file, fallback=False))
        assert await read_exactly(far, SIZE) == pattern(SIZE)
        assert await task == SIZE
    assert reports == []


async def test_sendfile_to_a_transport_is_not_reported(file, reports):
    async with open_transport() as (transport, _, peer):
        task = asyncio.ensure_future(asyncio.get_running_loop().sendfile(transport, file, fallback=False))
        assert await read_exactly(peer, SIZE) == pattern(SIZE)
        assert await task == SIZE
    assert reports == []


async def test_a_unix_server_and_its_close_are_not_reported(tmp_path, reports):
    path = str(tmp_path / "server")
    for _ in range(2):  # before Python 3.13 the second finds the path of the first
        server = await asyncio.get_running_loop().create_unix_server(Recorder, path)
        server.close()
        await server.wait_closed()
        await turns(3)
    assert reports == []

"""Tools that look into a running asyncio program from outside, or from a thread in it, work on uringloop."""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time

import pytest
from support.view_tools import BLOCKED, HEALTHY, service, wait_until

pytestmark = pytest.mark.slow

BIN = os.path.dirname(sys.executable)
PY_SPY = shutil.which("py-spy", path=os.pathsep.join([BIN, os.environ.get("PATH", os.defpath)]))

NEEDS_PY_SPY = pytest.mark.skipif(
    PY_SPY is None or sys.version_info >= (3, 15) or sysconfig.get_config_var("Py_GIL_DISABLED") == 1,
    reason="py-spy is not installed, or does not know this Python",
)

# What telnet(1) answers to questions for its type and its size.
AS_A_TERMINAL = (
    b"\xff\xfb\x18\xff\xfa\x18\x00ansi\xff\xf0"  # WILL TERMINAL-TYPE, and it IS
    b"\xff\xfb\x1f\xff\xfa\x1f\x00\x78\x00\x28\xff\xf0"  # WILL NAWS, 120 by 40
)

# With aiomonitor in a thread; it prints its port.
MONITORED = """
import asyncio, sys
import aiomonitor, uringloop

async def waits_for_orders():
    await asyncio.Event().wait()

async def main():
    waiting = asyncio.create_task(waits_for_orders(), name="orders")
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uringloop.Loop)
    ports = {f"{name}port": int(port) for name, port in zip(("", "webui_", "console_"), sys.argv[1:])}
    with aiomonitor.start_monitor(loop, host="127.0.0.1", **ports):
        print("ready", flush=True)
        await waiting

uringloop.run(main())
"""


def run_tool(*words, seconds=60):
    """What a tool prints; skips where this process may not look into others."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    output = done.stdout + done.stderr
    if done.returncode and any(why in output.lower() for why in ("permission", "not permitted", "ptrace")):
        pytest.skip(f"the system does not allow it: {output.strip().splitlines()[-1]}")
    assert done.returncode == 0, output
    return output


@pytest.fixture
def blocked(tmp_path, monitor):
    with service(BLOCKED, tmp_path, URINGLOOP_FDMON=monitor) as process:
        yield process


@pytest.fixture
def healthy(tmp_path, monitor):
    with service(HEALTHY, tmp_path, URINGLOOP_FDMON=monitor) as process:
        yield process


@NEEDS_PY_SPY
def test_py_spy_shows_what_blocks_a_loop(blocked):
    shown = run_tool(PY_SPY, "dump", "--pid", str(blocked.pid))
    assert "read_a_slow_disk" in shown
    assert "handle_request" in shown


@NEEDS_PY_SPY
def test_py_spy_records_a_loop(healthy, tmp_path):
    samples = tmp_path / "samples"
    run_tool(
        PY_SPY, "record", "--pid", str(healthy.pid), "--duration", "2", "--rate", "200", "--idle",
        "--format", "raw", "--output", str(samples),
    )  # fmt: skip
    assert "run (uringloop/policy.py" in samples.read_text()


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


@pytest.mark.skipif(importlib.util.find_spec("aiomonitor") is None, reason="aiomonitor is not installed")
def test_aiomonitor_lists_tasks_and_what_they_await(tmp_path, monitor):
    ports = free_ports(3)
    with service(MONITORED, tmp_path, arguments=ports, URINGLOOP_FDMON=monitor, TERM="dumb"):
        with socket.create_connection(("127.0.0.1", ports[0]), timeout=30) as terminal:
            seen = bytearray()
            type_into(terminal, seen, AS_A_TERMINAL, b"monitor")
            type_into(terminal, seen, b"ps\r\n", b"waits_for_orders")
            assert b"orders" in seen


def type_into(terminal, seen, text, wanted):
    """Type a text, and read until the wanted one comes."""
    terminal.sendall(text)
    terminal.settimeout(1)
    deadline = time.monotonic() + 30
    while wanted not in seen:
        assert time.monotonic() < deadline, bytes(seen)
        with contextlib.suppress(TimeoutError):
            seen += terminal.recv(1 << 16)


@pytest.mark.skipif(sys.version_info < (3, 14), reason="python -m asyncio ps: since Python 3.14")
@pytest.mark.parametrize("command", ["ps", "pstree"])
def test_asyncio_lists_the_tasks_of_another_process(blocked, command):
    shown = run_tool(sys.executable, "-m", "asyncio", command, str(blocked.pid))
    assert "request 7" in shown
    assert "audit" in shown


@pytest.mark.skipif(sys.version_info < (3, 15), reason="profiling.sampling: since Python 3.15")
def test_pythons_sampling_profiler_attaches_to_a_loop(blocked, tmp_path):
    samples = tmp_path / "samples"
    run_tool(
        sys.executable, "-m", "profiling.sampling", "attach", "-d", "1", "--collapsed", "-o", str(samples),
        str(blocked.pid),
    )  # fmt: skip
    wait_until(samples.exists)
    assert "read_a_slow_disk" in samples.read_text()

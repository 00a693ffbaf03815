"""Helpers of the tests: loops by name, recording protocols, waiting, scripts in other processes."""

import array
import asyncio
import contextlib
import ctypes
import functools
import gc
import importlib.util
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import time

from uringloop.fdmon import select

URING_MONITORS = select.NAMES
HAS_CFFI = importlib.util.find_spec("cffi") is not None  # not for 3.13t
STOCK = "asyncio"
LINUX = tuple(
    int(part) for part in os.uname().release.split("-")[0].split(".")[:2]
)  # only to say why a test skips
TESTS = pathlib.Path(__file__).parents[1]
DATA = TESTS / "support" / "data"

inside_glib = False  # pytest --glib: GLib drives uringloop's loops
glib_is_outer = False  # pytest --glib-outer: with GLib.MainLoop.run()


def make_loop(name):
    """A new loop on the monitor `name`, or the stock selector loop for "asyncio"."""
    if name == STOCK:
        return asyncio.SelectorEventLoop()
    import uringloop

    if not inside_glib:
        return uringloop.new_event_loop(fdmon=name)
    from gi.repository import GLib

    import uringloop.glib

    # a main context for each loop, so that any thread may run it
    main_context = GLib.MainContext()
    if glib_is_outer:
        return _outer_loop_class()(main_context, name)
    return uringloop.glib.new_event_loop(main_context, fdmon=name)


@functools.cache
def _outer_loop_class():
    """A class of loops that GLib.MainLoop.run() runs and quit() stops: asyncio is the guest in each callback."""
    from gi.repository import GLib

    import uringloop.glib

    class OuterGLibLoop(uringloop.glib.GLibLoop):
        def __init__(self, main_context, name):
            super().__init__(main_context, name, 0)
            self._glib_context = main_context
            self._main_loop = GLib.MainLoop(main_context)

        def run_forever(self):
            self._check_closed()
            self._check_running()
            try:
                if self._stopping:  # before the run: one turn
                    self.call_soon(lambda: None)
                    self._glib_context.iteration(False)
                else:
                    self._main_loop.run()
            finally:
                self._stopping = False

        def stop(self):
            super().stop()
            self._main_loop.quit()

        def close(self):
            super().close()
            self._main_loop = self._glib_context = None

    return OuterGLibLoop


def monitor_of(loop):
    return getattr(loop, "fdmon", STOCK)


# Waiting


async def turns(count):
    """Let the loop run `count` turns."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition, *, seconds=30.0):
    """Let the loop run until `condition()` holds: for effects that the kernel causes asynchronously."""
    deadline = time.monotonic() + seconds
    turn = 0
    while not condition():
        assert time.monotonic() < deadline, f"still false after {seconds} s: {condition}"
        turn += 1
        await asyncio.sleep(0 if turn < 200 else 0.001)


def wait_until(condition, *, seconds=30.0):
    """Like until(), without a loop."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still false after {seconds} s: {condition}"
        time.sleep(0.0005)


# Of x86-64, and a word of what newer kernels have in wchan then.
SLEEPING_CALLS = {
    "7": "poll",
    "232": "poll",
    "257": "wait_for_partner",
    "271": "poll",
    "281": "poll",
    "441": "poll",
}


def wchan(thread_id):
    """Where in the kernel a thread sleeps (proc(5)); nowhere if it has ended."""
    folder = f"/proc/self/task/{thread_id}"
    try:
        with open(f"{folder}/wchan") as file:
            where = file.read()
    except OSError:
        return ""
    if where == "0" and LINUX < (5, 16):  # says nothing there; the system call does
        with open(f"{folder}/syscall") as file:
            where = SLEEPING_CALLS.get(file.read().split()[0], "0")
    return where


def is_asleep(thread_id):
    """Whether the loop or context of this thread sleeps in its monitor's wait."""
    return any(part in wchan(thread_id) for part in ("poll", "io_"))


def run(loop, awaitable, *, seconds=45.0):
    """Run to completion on a loop that is not running, with a time limit."""

    async def bounded():
        async with asyncio.timeout(seconds):
            return await awaitable

    return loop.run_until_complete(bounded())


def one_turn(loop):
    """One turn of a loop that is not running."""
    loop.call_soon(loop.stop)
    loop.run_forever()


def turn_until(loop, condition, *, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still false after {seconds} s: {condition}"
        one_turn(loop)


# Protocols


class Recorder(asyncio.Protocol):
    """Records every call, in order, and lets a test wait for them."""

    keep_open = None  # what eof_received returns

    def __init__(self):
        self.calls = []
        self.data = bytearray()
        self.chunks = []
        self.transport = None
        self.error = None
        self.connected = asyncio.Event()
        self.ended = asyncio.Event()
        self.lost = asyncio.Event()
        self.paused = asyncio.Event()
        self.resumed = asyncio.Event()
        self._changed = asyncio.Event()

    def connection_made(self, transport):
        self.calls.append("connection_made")
        self.transport = transport
        self.connected.set()

    def data_received(self, data):
        self.calls.append("data_received")
        self.chunks.append(data)
        self.data += data
        self._changed.set()

    def eof_received(self):
        self.calls.append("eof_received")
        self.ended.set()
        return self.keep_open

    def connection_lost(self, error):
        self.calls.append("connection_lost")
        self.error = error
        self.lost.set()
        self._changed.set()

    def pause_writing(self):
        self.calls.append("pause_writing")
        self.paused.set()

    def resume_writing(self):
        self.calls.append("resume_writing")
        self.resumed.set()

    async def received(self, count):
        """Wait until at least `count` bytes have arrived."""
        while len(self.data) < count:
            assert not self.lost.is_set(), (
                f"connection lost after {len(self.data)} of {count} bytes: {self.error!r}"
            )
            self._changed.clear()
            await self._changed.wait()
        return bytes(self.data)


class BufferedRecorder(asyncio.BufferedProtocol):
    """A Recorder with get_buffer() and buffer_updated()."""

    keep_open = None

    def __init__(self, size=64 * 1024):
        self.calls = []
        self.hints = []
        self.data = bytearray()
        self.buffer = bytearray(size)
        self.transport = None
        self.error = None
        self.lost = asyncio.Event()
        self.ended = asyncio.Event()
        self._changed = asyncio.Event()

    def connection_made(self, transport):
        self.calls.append("connection_made")
        self.transport = transport

    def get_buffer(self, size_hint):
        self.hints.append(size_hint)
        return self.buffer

    def buffer_updated(self, count):
        assert 0 < count <= len(self.buffer)
        self.calls.append("buffer_updated")
        self.data += self.buffer[:count]
        self._changed.set()

    def eof_received(self):
        self.calls.append("eof_received")
        self.ended.set()
        return self.keep_open

    def connection_lost(self, error):
        self.calls.append("connection_lost")
        self.error = error
        self.lost.set()
        self._changed.set()

    async def received(self, count):
        while len(self.data) < count:
            assert not self.lost.is_set(), (
                f"connection lost after {len(self.data)} of {count} bytes: {self.error!r}"
            )
            self._changed.clear()
            await self._changed.wait()
        return bytes(self.data)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.Queue()
        self.errors = asyncio.Queue()
        self.lost = asyncio.Event()
        self.error = None
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        self.received.put_nowait((data, address))

    def error_received(self, error):
        self.errors.put_nowait(error)

    def connection_lost(self, error):
        self.error = error
        self.lost.set()


# Connections


def tcp_socketpair():
    """Two connected TCP sockets on the loopback, both blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for end in (near, far):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def socketpair(kind):
    """A connected pair: "tcp" or "unix"."""
    return tcp_socketpair() if kind == "tcp" else socket.socketpair()


def connect_unshared(loop, factory, sock, *, ssl=None, server_hostname=None):
    """Like create_connection(sock=sock), but as for a socket that the loop has made, which the program does not use.
    Written data waits for the end of the turn.
    """
    sock.setblocking(False)
    return loop._create_connection_transport(sock, factory, ssl, server_hostname)


async def abort(protocol):
    """End a protocol's connection if it is still open."""
    if not protocol.lost.is_set():
        protocol.transport.abort()
        await protocol.lost.wait()


def close_with_open_transport(loop, protocol):
    """Close a loop and forget a transport that is still open on it."""
    loop.close()
    protocol.transport = None
    gc.collect()


@contextlib.asynccontextmanager
async def open_transport(protocol=None, *, kind="tcp", **kwargs):
    """(transport, protocol, peer): a transport on one end, and the other end as a non-blocking socket."""
    loop = asyncio.get_running_loop()
    near, peer = socketpair(kind)
    peer.setblocking(False)
    protocol = Recorder() if protocol is None else protocol
    transport, _ = await connect_unshared(loop, lambda: protocol, near, **kwargs)
    try:
        yield transport, protocol, peer
    finally:
        peer.close()
        await abort(protocol)


@contextlib.asynccontextmanager
async def open_pair(near_protocol=None, far_protocol=None, *, kind="tcp"):
    """Two protocols, each with a transport, connected to each other."""
    loop = asyncio.get_running_loop()
    near_protocol = Recorder() if near_protocol is None else near_protocol
    far_protocol = Recorder() if far_protocol is None else far_protocol
    near, far = socketpair(kind)
    await connect_unshared(loop, lambda: near_protocol, near)
    await connect_unshared(loop, lambda: far_protocol, far)
    try:
        yield near_protocol, far_protocol
    finally:
        for protocol in (near_protocol, far_protocol):
            await abort(protocol)


async def read_exactly(sock, count):
    """Read from a non-blocking socket without using the loop's own socket methods."""
    data = bytearray()

    def more():
        try:
            chunk = sock.recv(count - len(data))
        except BlockingIOError:
            return False
        assert chunk, f"end of stream after {len(data)} of {count} bytes"
        data.extend(chunk)
        return len(data) == count

    if count:
        await until(more)
    return bytes(data)


async def read_to_end(sock):
    """Read everything up to the end of the stream."""
    data = bytearray()

    def at_end():
        while True:
            try:
                chunk = sock.recv(1 << 16)
            except BlockingIOError:
                return False
            if not chunk:
                return True
            data.extend(chunk)

    await until(at_end)
    return bytes(data)


def fill(sock):
    """Write to a non-blocking socket until the kernel takes no more; return the number of bytes."""
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            count += sock.send(bytes(1 << 16))
    return count


def reset_on_close(sock):
    """Let close() send RST instead of FIN."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def shrink_buffers(*socks, count=8192):
    for sock in socks:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, count)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, count)


def open_fds():
    """Numbers of the open fds."""
    return {int(fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")}


def kernel_workers():
    """The number of threads that the kernel has started for this process's io_uring requests (io-wq)."""
    count = 0
    for name in pathlib.Path("/proc/self/task").glob("*/comm"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            count += name.read_text().startswith("iou-wrk")
    return count


def pattern(count):
    """`count` bytes in which a lost, duplicated or misplaced piece is noticed."""
    numbers = array.array("I", range((count + 3) // 4))
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()[:count]


# TLS


def server_tls():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "cert.pem", DATA / "key.pem")
    return context


def client_tls():
    return ssl.create_default_context(cafile=DATA / "cert.pem")


# Scripts


def run_script(source, monitor=STOCK, *, seconds=120.0, env=None, expect=0, arguments=()):
    """Run Python code in a process of its own and return what it printed; its exit status must be `expect`.

    The code sees everything from this module, and MONITOR.
    """
    # At the end of the path, so that no folder here hides a module of Python.
    path = f"import sys\nsys.path += [{str(TESTS)!r}, {str(TESTS.parent)!r}]\n"
    code = f"{path}MONITOR = {monitor!r}\nfrom support.helpers import *\n" + textwrap.dedent(source)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("URINGLOOP_")}
    environment["PYTHONFAULTHANDLER"] = "1"
    environment.update(env or {})
    try:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        out, err = ((text or b"").decode(errors="replace") for text in (error.stdout, error.stderr))
        raise AssertionError(f"the script hung\nstdout: {out}\nstderr: {err}") from None
    assert done.returncode == expect, (
        f"exit status {done.returncode}\nstdout: {done.stdout}\nstderr: {done.stderr}"
    )
    return done.stdout


# Refused system calls


def refuse_io_uring(error):
    """Let io_uring_setup fail with this errno, for the rest of this process's life."""
    refuse_calls([425], error)  # on every architecture


def refuse_calls(numbers, error):
    """Let these system calls fail with this errno, for the rest of this process's life (a seccomp filter)."""
    _filter_calls(numbers, 0x00050000 | error)  # SECCOMP_RET_ERRNO


def kill_for_calls(numbers):
    """Let these system calls end this process with SIGSYS, as systemd's filters do by default."""
    _filter_calls(numbers, 0x80000000)  # SECCOMP_RET_KILL_PROCESS


def filter_of_calls(numbers, action):
    """A seccomp filter with an action for these system calls: its struct sock_fprog, and the memory that this names."""
    load, jump_if_equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    allow = 0x7FFF0000  # SECCOMP_RET_ALLOW
    instructions = [(load, 0, 0, 0)]
    for number in numbers:
        instructions += [(jump_if_equal, 0, 1, number), (answer, 0, 0, action)]
    instructions.append((answer, 0, 0, allow))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(code, len(code))
    return ctypes.create_string_buffer(
        struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    ), buffer


def _filter_calls(numbers, action):
    program, _code = filter_of_calls(numbers, action)
    libc = ctypes.CDLL(None, use_errno=True)
    set_no_new_privs, set_seccomp, mode_filter = 38, 22, 2
    for arguments in ((set_no_new_privs, 1, 0), (set_seccomp, mode_filter, program)):
        if libc.prctl(*arguments, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def become_unprivileged():
    """Give up root's privileges, if there are any, for a user of this process's own: locked memory counts by user."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid((1 << 20) + os.getpid())

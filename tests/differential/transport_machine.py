"""A stream transport on one end of a connected pair, while the test drives the socket of the other.

The kernel decides where data is cut, so what one protocol receives in a row is joined. Sizes are either small enough
for every buffer, or so large that no kernel takes all.
"""

import asyncio
import contextlib
import socket
import struct
import time
import zlib

from hypothesis import strategies as st
from support.helpers import connect_unshared, pattern

from .comparing import SETTLED_TURNS, Machine, pair

BUFFER_BYTES = 1 << 16  # of sockets; the kernel doubles it
HUGE = 800_000  # several times what the kernel takes
DRAIN_S = 5

SIZES = st.sampled_from([0, 1, 10, 700, 5000, HUGE])
SMALL_SIZES = st.sampled_from([1, 10, 700, 5000])
METHODS = [
    "connection_made",
    "data_received",
    "eof_received",
    "pause_writing",
    "resume_writing",
    "connection_lost",
]

LEAVES = st.one_of(
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("writelines"), st.lists(SIZES, max_size=3)),
    st.tuples(st.just("write_wrong"), st.sampled_from(["str", "none", "list"])),
    st.tuples(st.just("write_eof")),
    st.tuples(st.just("pause")),
    st.tuples(st.just("resume")),
    st.tuples(
        st.just("limits"),
        st.sampled_from([None, 0, 1000, 100_000]),
        st.sampled_from([None, None, 0, 100, 200_000]),
    ),
    st.tuples(st.just("close")),
    st.tuples(st.just("abort")),
    st.tuples(st.just("protocol"), st.sampled_from(["plain", "buffered", "tiny"])),
    st.tuples(st.just("state")),
    st.tuples(st.just("info")),
)
IN_CALLBACKS = st.one_of(LEAVES, LEAVES, LEAVES, st.tuples(st.just("raise")))
SCRIPTS = st.tuples(
    st.just("script"), st.sampled_from(METHODS), st.lists(IN_CALLBACKS, min_size=1, max_size=3)
)
GROUPS = st.tuples(st.just("do"), st.lists(st.one_of(LEAVES, LEAVES, SCRIPTS), min_size=1, max_size=4))
FAR = st.one_of(
    st.tuples(st.just("far_send"), SMALL_SIZES),
    st.tuples(st.just("far_send"), SMALL_SIZES),
    st.tuples(st.just("far_send"), SMALL_SIZES),
    st.tuples(st.just("far_read")),
    st.tuples(st.just("far_read")),
    st.tuples(st.sampled_from(["far_read", "far_shutdown", "far_close", "far_reset"])),
)
OPTIONS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["unix", "tcp"]),
        "is_shared": st.booleans(),
        "protocol": st.sampled_from(["plain", "buffered", "tiny"]),
        "keep_open": st.booleans(),
        "debug": st.booleans(),
    }
)
PROGRAMS = st.tuples(
    OPTIONS, SCRIPTS | st.none(), st.lists(st.one_of(GROUPS, GROUPS, FAR), min_size=4, max_size=20)
)


class Data:
    """Bytes that are counted up, so that a lost or misplaced piece is noticed; and a sum of those that came."""

    SOURCE = pattern(1 << 20)

    def __init__(self):
        self.position = 0
        self.has_huge = False  # and the peer has not read it

    def next(self, size):
        self.has_huge |= size == HUGE
        start = self.position % 4093
        self.position += size + 1
        return self.SOURCE[start : start + size]


class Received:
    """What came in a row: its entry in the trace is made when something else happens."""

    def __init__(self, world):
        self.world = world
        self.is_muted = False
        self.names = {}
        add = world.add

        def add_after_data(*parts):
            self.flush()
            add(*parts)

        self.add, world.add = add, add_after_data

    def data(self, name, data):
        if self.is_muted:
            return
        if self.names and name not in self.names:
            self.flush()
        count, crc = self.names.get(name, (0, 0))
        self.names[name] = count + len(data), zlib.crc32(data, crc)

    def progress(self):
        return [count for count, _ in self.names.values()]

    def flush(self):
        for name, (count, crc) in self.names.items():
            self.add(name, f"received {count} bytes, {crc:08x}")
        self.names.clear()


class Recording:
    """The calls of both kinds of protocol, and the actions that the program has for them."""

    def __init__(self, machine, name):
        self.machine = machine
        self.name = name

    def called(self, method, *arguments):
        machine = self.machine
        machine.world.add(self.name, method, *arguments)
        return self.scripted(method)

    def scripted(self, method):
        machine = self.machine
        actions = machine.scripts.pop(method, ())
        if method == "resume_writing":  # asyncio calls connection_lost() twice then: AttributeError
            actions = [action for action in actions if action[0] not in ("close", "abort")]
        machine.do_all(actions)

    def connection_made(self, transport):
        self.machine.transport = transport
        self.called("connection_made")

    def eof_received(self):
        # asyncio calls it once more after pause_reading() and resume_reading(): docs/differences.md
        if not self.machine.is_at_end:
            self.machine.is_at_end = True
            self.called("eof_received")
        return self.machine.options["keep_open"]

    def pause_writing(self):
        self.called("pause_writing")

    def resume_writing(self):
        self.called("resume_writing")

    def connection_lost(self, error):
        self.machine.is_lost = True
        self.called("connection_lost", error)


class Plain(Recording, asyncio.Protocol):
    def data_received(self, data):
        self.machine.received.data(self.name, data)
        self.scripted("data_received")


class Buffered(Recording, asyncio.BufferedProtocol):
    size = 1 << 16

    def __init__(self, machine, name):
        super().__init__(machine, name)
        self.buffer = bytearray(self.size)

    def get_buffer(self, size_hint):
        return memoryview(self.buffer)  # of a bytearray, asyncio's TLS fills a copy

    def buffer_updated(self, count):
        self.machine.received.data(self.name, bytes(self.buffer[:count]))
        self.scripted("data_received")


class Tiny(Buffered):
    size = 7


PROTOCOLS = {"plain": Plain, "buffered": Buffered, "tiny": Tiny}


class OnPurpose(Exception):
    pass


class Interpreter:
    # Methods of a transport whose connection_lost() was called: asyncio's raise AttributeError now and then.
    not_after_the_end = (
        *("write", "writelines", "write_wrong", "write_eof", "pause", "resume", "limits", "close", "abort"),
        *("protocol", "tls_info"),
    )

    def __init__(self, world, options):
        self.world = world
        self.loop = world.loop
        self.options = options
        self.received = Received(world)
        self.data = Data()
        self.scripts = {}
        self.n_protocols = 0
        self.transport = None
        self.is_lost = self.is_at_end = False
        self.is_cut = False  # how much of what the connection lost was sent is not specified
        self.loop.set_debug(options["debug"])
        self.loop.slow_callback_duration = 1e9
        self.near, self.far = pair(options["kind"])
        world.closing.callback(self.far.close)
        world.closing.callback(self.near.close)
        self.far_crc = self.far_count = 0
        self.far_end = None
        for end in (self.near, self.far):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)

    def new_protocol(self, kind):
        self.n_protocols += 1
        return PROTOCOLS[kind](self, f"{kind}{self.n_protocols}")

    def connect(self):
        def factory():
            return self.new_protocol(self.options["protocol"])

        if self.options["is_shared"]:
            made = self.loop.create_connection(factory, sock=self.near)
        else:
            made = connect_unshared(self.loop, factory, self.near)
        self.task = self.loop.create_task(made)
        self.settle()
        if not self.task.done():
            self.task.cancel()
            self.settle()
        try:
            self.world.add("connected", self.task.result() is not None)
        except BaseException as error:
            self.world.add("not connected", error)

    def show_buffered(self):
        self.world.add("buffered", self.transport.get_write_buffer_size() > 0)

    def settle(self):
        self.world.settle(self.received.progress)
        self.received.flush()

    # Actions on the transport

    def do_all(self, actions):
        for action in actions:
            if self.is_lost and action[0] in self.not_after_the_end:
                continue
            is_late = self.far.fileno() < 0 and not self.options["is_shared"]
            if is_late and len(actions) > 1 and action[0] in ("write", "writelines"):
                continue  # asyncio notices a broken connection at once, and uringloop at the end of the turn
            getattr(self, "do_" + action[0])(*action[1:])

    def do_write(self, size):
        self.world.attempt("write", self.transport.write, self.data.next(size), show=False)

    def do_writelines(self, sizes):
        pieces = [self.data.next(size) for size in sizes]
        while pieces and not pieces[-1]:
            pieces.pop()  # since Python 3.12 asyncio never gets rid of it: docs/differences.md
        self.world.attempt("writelines", self.transport.writelines, pieces, show=False)

    def do_write_wrong(self, kind):
        value = {"str": "text", "none": None, "list": [1]}[kind]
        self.world.attempt("write", self.transport.write, value)

    def do_write_eof(self):
        self.world.add("can_write_eof", self.transport.can_write_eof())
        with contextlib.suppress(
            OSError
        ):  # stock asyncio's, of a connection that was reset: docs/differences.md
            self.transport.write_eof()

    def do_pause(self):
        self.world.attempt("pause_reading", self.transport.pause_reading)

    def do_resume(self):
        self.world.attempt("resume_reading", self.transport.resume_reading)

    def do_limits(self, high, low):
        self.world.attempt("limits", self.transport.set_write_buffer_limits, high=high, low=low)
        self.world.attempt("limits are", self.transport.get_write_buffer_limits)

    def do_close(self):
        self.world.attempt("close", self.transport.close)

    def do_abort(self):
        self.world.attempt("abort", self.transport.abort)

    def do_protocol(self, kind):
        self.world.attempt("set_protocol", self.transport.set_protocol, self.new_protocol(kind))
        self.world.attempt("protocol is", lambda: self.transport.get_protocol().name)

    def do_state(self):
        transport = self.transport
        self.world.add("state", transport.is_closing(), transport.is_reading())

    def do_info(self):
        info = self.transport.get_extra_info
        self.world.add(
            "info", type(info("socket")).__name__, info("none"), info("none", 1), info("sslcontext")
        )
        names = [info("sockname"), info("peername")]
        self.world.add("names", [name[0] if isinstance(name, tuple) else name for name in names])

    def do_raise(self):
        raise OnPurpose("on purpose")

    def do_script(self, method, actions):
        self.scripts[method] = actions

    # The other end

    def far_send(self, size):
        with contextlib.suppress(OSError):
            self.far.sendall(self.data.next(size))

    def far_read(self):
        """Read all that comes; the end or an error is a line of the trace."""
        self.is_cut |= self.is_lost and self.data.has_huge
        quiet = 0
        give_up_s = time.monotonic() + DRAIN_S
        while quiet < SETTLED_TURNS:
            quiet += 1
            with contextlib.suppress(BlockingIOError):
                while self.far_end is None:
                    try:
                        data = self.far.recv(1 << 20)
                    except BlockingIOError:
                        raise
                    except OSError:
                        # io_uring may have received what stock asyncio leaves in the socket, whose close() resets then
                        self.far_end = "end"
                        break
                    if not data:
                        self.far_end = "end"
                        break
                    quiet = 0
                    self.far_count += len(data)
                    self.far_crc = zlib.crc32(data, self.far_crc)
            self.world.turn()
            if self.is_sending() and quiet > 2 and time.monotonic() < give_up_s:
                quiet = 2  # TCP may take its time
        self.is_cut |= self.is_lost and self.data.has_huge
        self.data.has_huge = False
        count = "some" if self.is_cut else self.far_count
        self.world.add(f"far has {count} bytes, {0 if self.is_cut else self.far_crc:08x}", self.far_end)

    def is_sending(self):
        return (
            self.far_end is None and self.transport is not None and self.transport.get_write_buffer_size() > 0
        )

    def far_shutdown(self):
        with contextlib.suppress(OSError):
            self.far.shutdown(socket.SHUT_WR)

    def far_close(self):
        if not self.options["is_shared"]:
            self.far_reset()  # two sends are needed to notice the end; here writes in one turn are one send
        self.far.close()
        self.far_end = "closed"

    def far_reset(self):
        if self.options["kind"] == "tcp" and self.far.fileno() >= 0:
            self.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.far.close()
        self.far_end = "closed"


class TransportMachine(Machine):
    name = "transport"
    programs = PROGRAMS

    def comparable(self, lines):
        # Python 3.11 joins the pieces and calls write(), whose message it is then.
        return [line.replace("Cannot call writelines()", "Cannot call write()") for line in lines]

    def run(self, world, program):
        options, script, steps = program
        interpreter = Interpreter(world, options)
        world.keep.append(interpreter)
        if script is not None:
            interpreter.do_script(*script[1:])
        interpreter.connect()
        self.carry_out(interpreter, steps)

    def carry_out(self, interpreter, steps):
        """Each step, and all that follows from it before the next."""
        world = interpreter.world
        for step in steps:
            world.add(f"- {step[0]}")
            if step[0] == "do":
                world.loop.call_soon(interpreter.do_all, step[1])
                interpreter.settle()
                interpreter.show_buffered()
            else:
                getattr(interpreter, step[0])(*step[1:])
                interpreter.settle()
        interpreter.far_read()
        interpreter.do_all([("abort",)])
        interpreter.settle()
        interpreter.do_all([("state",)])


MACHINE = TransportMachine()

"""StreamReader and StreamWriter on one end of a connected pair."""

import asyncio
import contextlib

from hypothesis import strategies as st

from .transport_machine import FAR, HUGE, Interpreter, TransportMachine

COUNTS = st.sampled_from([0, 1, 10, 100, 6000])
READS = st.one_of(
    st.tuples(st.just("read"), st.sampled_from([-1, 0, 1, 10, 6000])),
    st.tuples(st.just("readexactly"), COUNTS),
    st.tuples(st.just("readuntil"), st.sampled_from([b"\x00", b"\x00\x00", b"\x05", b""])),
    st.tuples(st.just("readline")),
    st.tuples(st.just("iterate")),
)
SIZES = st.sampled_from([0, 1, 10, 700, HUGE])
ACTIONS = st.one_of(
    READS,
    READS,
    READS,
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("writelines"), st.lists(SIZES, max_size=3)),
    st.tuples(
        st.sampled_from(
            ["drain", "drain", "write_eof", "close", "wait_closed", "abort", "at_eof", "state", "info"]
        )
    ),
    st.tuples(st.just("cancel"), st.integers(0, 4)),
)
GROUPS = st.tuples(st.just("do"), st.lists(ACTIONS, min_size=1, max_size=3))
OPTIONS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["unix", "tcp"]),
        "is_shared": st.booleans(),
        "limit": st.sampled_from([1, 100, 1 << 16]),
        "debug": st.booleans(),
        "is_server": st.booleans(),
    }
)
PROGRAMS = st.tuples(OPTIONS, st.lists(st.one_of(GROUPS, GROUPS, FAR), min_size=4, max_size=20))


class Recorded(asyncio.StreamReaderProtocol):
    machine = None

    def connection_lost(self, error):
        self.machine.is_lost = True
        self.machine.world.add("connection_lost", error)
        super().connection_lost(error)


class StreamsInterpreter(Interpreter):
    not_after_the_end = ("abort", "write_eof", "info", "write", "writelines")

    def __init__(self, world, options):
        super().__init__(world, options)
        self.tasks = []
        self.reader = asyncio.StreamReader(limit=options["limit"], loop=self.loop)
        self.writer = None

    def new_protocol(self, kind):
        connected = self.connected if self.options["is_server"] else None
        protocol = Recorded(self.reader, connected, loop=self.loop)
        protocol.machine = self
        return protocol

    def connect(self):
        super().connect()
        if self.task.done() and not self.task.cancelled() and self.task.exception() is None:
            self.transport, protocol = self.task.result()
            self.writer = asyncio.StreamWriter(self.transport, protocol, self.reader, self.loop)

    def connected(self, reader, writer):
        self.world.add("client_connected", reader is self.reader)

    def start(self, what, coroutine):
        label = f"#{len(self.tasks)} {what}"
        task = self.loop.create_task(coroutine)
        self.tasks.append(task)

        def finished(task):
            if task.cancelled():
                self.world.add(label, "is cancelled")
            elif task.exception() is not None:
                error = task.exception()
                self.world.add(label, "raises", error, getattr(error, "consumed", None))
            else:
                self.world.add(label, "returns", task.result())

        task.add_done_callback(finished)

    def do_read(self, count):
        self.start(f"read({count})", self.reader.read(count))

    def do_readexactly(self, count):
        self.start(f"readexactly({count})", self.reader.readexactly(count))

    def do_readuntil(self, separator):
        self.start(f"readuntil({separator})", self.reader.readuntil(separator))

    def do_readline(self):
        self.start("readline", self.reader.readline())

    def do_iterate(self):
        async def iterate():
            return [len(line) async for line in self.reader]

        self.start("iterate", iterate())

    def do_write(self, size):
        self.world.attempt("write", self.writer.write, self.data.next(size), show=False)

    def do_writelines(self, sizes):
        self.world.attempt("writelines", self.writer.writelines, [self.data.next(size) for size in sizes])

    def do_drain(self):
        self.start("drain", self.writer.drain())

    def do_wait_closed(self):
        if self.writer.is_closing():
            self.start("wait_closed", self.writer.wait_closed())

    def do_write_eof(self):
        with contextlib.suppress(
            OSError
        ):  # stock asyncio's, of a connection that was reset: docs/differences.md
            self.writer.write_eof()

    def do_close(self):
        self.world.attempt("close", self.writer.close)

    def do_at_eof(self):
        self.world.add("at_eof", self.reader.at_eof(), self.reader.exception())

    def do_state(self):
        self.world.add("state", self.writer.is_closing(), self.writer.can_write_eof())

    def do_cancel(self, number):
        if self.tasks:
            self.world.add("cancel", self.tasks[number % len(self.tasks)].cancel())


class StreamsMachine(TransportMachine):
    name = "streams"
    programs = PROGRAMS

    def run(self, world, program):
        options, steps = program
        interpreter = StreamsInterpreter(world, {**options, "protocol": None})
        world.keep.append(interpreter)
        interpreter.connect()
        self.carry_out(interpreter, steps)


MACHINE = StreamsMachine()

"""Runs one program on stock asyncio and on each of uringloop's monitors, and compares the traces.

A program is plain data (tuples, lists, numbers, strings): its repr() is what a failure prints and what --replay reads.
A machine has a name, a Hypothesis strategy of programs, and run(world, program), which adds to the world's trace what
user code sees. What asyncio leaves open is not added, or sorted before.
"""

import asyncio
import contextlib
import difflib
import gc
import logging
import re
import socket
import ssl
import warnings

from hypothesis import HealthCheck, Phase, given, seed, settings
from support.helpers import STOCK, URING_MONITORS, make_loop

SETTLED_TURNS = 12  # without an entry in the trace; then nothing more is under way
MOST_TURNS = 3000  # of one settle()

_ADDRESS = re.compile(r"0x[0-9a-f]+")
_SOCKET = re.compile(r"<socket\.socket [^>]*>|<asyncio\.TransportSocket [^>]*>")
_PORT = re.compile(r"\('127\.0\.0\.1', \d+\)")
_FOLDERS = re.compile(r"/(?:[\w.-]+/)+")
_FD = re.compile(
    r"\bfd=-?\d+|\bfile descriptor \d+|\bFile descriptor \d+|\bline \d+|:\d+\b|\bport \d+|\bTask-\d+"
)
# Which one the loop uses to call a protocol is not specified; asyncio writes None for one that is cancelled as it runs.
_CALLBACK = re.compile(r"callback\b.*", re.DOTALL)
_OPENSSL_LINE = re.compile(r" \(_ssl\.c:\d+\)")


def plain(text):
    """Without addresses, numbers of descriptors and ports, lines of source files."""
    for pattern, short in (
        (_SOCKET, "<socket>"),
        (_ADDRESS, "0x"),
        (_PORT, "<address>"),
        (_FOLDERS, "/"),
        (_OPENSSL_LINE, ""),
    ):
        text = pattern.sub(short, text)
    return _FD.sub(lambda found: re.sub(r"-?\d+", "#", found[0]), text)


def described(value):
    """A value as the trace shows it."""
    if isinstance(value, BaseException):
        if isinstance(value, ssl.SSLError):
            return f"{type(value).__name__}({value.reason or plain(str(value))})"
        if isinstance(value, OSError) and value.errno is not None:
            return f"{type(value).__name__}(errno {value.errno})"
        return f"{type(value).__name__}({plain(str(value))})"
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return repr(data) if len(data) <= 40 else f"{data[:16]!r}...{data[-8:]!r} ({len(data)} bytes)"
    return plain(repr(value))


class World:
    """One run of a program: a loop, the trace, and what must be closed afterwards."""

    def __init__(self, loop, name):
        self.loop = loop
        self.name = name  # of the monitor: only for what only one of them documents
        self.lines = []
        self.is_over = False
        self.keep = []  # until the end: nothing is collected meanwhile
        self.closing = contextlib.ExitStack()
        loop.set_exception_handler(self.handler)

    def add(self, *parts):
        if not self.is_over:
            self.lines.append(" ".join(part if isinstance(part, str) else described(part) for part in parts))

    def handler(self, loop, context):
        """The loop's exception handler."""
        message = plain(_CALLBACK.sub("callback", str(context.get("message"))))
        keys = sorted(key for key in context if key not in ("source_traceback", "handle_traceback"))
        # what else there is about a callback depends on who calls it
        self.add(
            "handler:", message, context.get("exception"), "" if _CALLBACK.search(message) else str(keys)
        )

    def attempt(self, what, function, *arguments, show=True, **keywords):
        """Call; the result or the exception is a line of the trace."""
        try:
            result = function(*arguments, **keywords)
        except Exception as error:
            self.add(what, "raises", error)
            return None
        if show:
            self.add(what, "returns", result)
        return result

    def turn(self):
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    def turns(self, count):
        for _ in range(count):
            self.turn()

    def settle(self, progress=None):
        """Run turns until nothing happens any more: no entry is made, and progress() returns what it returned."""
        quiet, before = 0, None
        for _ in range(MOST_TURNS):
            self.turn()
            now = len(self.lines), progress and progress()
            quiet = quiet + 1 if now == before else 0
            before = now
            if quiet == SETTLED_TURNS:
                return
        self.add("never settles")

    def close(self):
        self.is_over = True
        loop = self.loop
        if not loop.is_closed():
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            for _ in range(5):
                with contextlib.suppress(BaseException):
                    self.turn()
            loop.close()
        self.closing.close()
        self.keep.clear()
        self.loop = None


class _Log(logging.Handler):
    """asyncio's log is a part of the trace."""

    def __init__(self, world):
        super().__init__(logging.WARNING)
        self.world = world

    def emit(self, record):
        # only its first line: a traceback shows frames of the loop
        if self.world is not None:
            self.world.add("log:", plain(record.getMessage()).partition("\n")[0])


def random_program(machine, number):
    """The random program with this number."""
    made = []

    # The first example is the simplest one. Those after the second would be variations of it.
    @seed(number)
    @settings(
        max_examples=2,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(machine.programs)
    def example(program):
        made.append(program)

    example()
    return made[-1]


def run_on(machine, program, name, loop_factory=make_loop):
    """The trace of a program on one loop: a list of lines."""
    logger = logging.getLogger("asyncio")
    world = World(machine.new_loop(name, loop_factory), name)
    log = _Log(world)
    propagate, logger.propagate = logger.propagate, False
    handlers, logger.handlers = logger.handlers, [log]
    was_collecting = gc.isenabled()
    gc.disable()  # a collection destroys tasks, which is reported, at any time
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                machine.run(world, program)
            finally:
                world.close()
                lines = machine.comparable(world.lines)
                world = log.world = None
                gc.collect()
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        if was_collecting:
            gc.enable()
    return lines


class Difference(AssertionError):
    """Two loops showed user code different things."""

    def __init__(self, machine, program, name, diff):
        super().__init__(f"machine {machine.name}, program:\n{program!r}\n{diff}")
        self.program, self.monitor = program, name


def compare(machine, program, names=URING_MONITORS, loop_factory=make_loop, expected=None):
    """Run the program on stock asyncio and on the monitors; raise Difference if a trace is not the same.

    Parameters:
        expected: the trace on stock asyncio, if it is known.
    """
    if expected is None:
        expected = run_on(machine, program, STOCK, loop_factory)
    for name in names:
        if name not in machine.monitors:
            continue
        got = run_on(machine, program, name, loop_factory)
        if got != expected:
            diff = "\n".join(difflib.unified_diff(expected, got, STOCK, name, lineterm="", n=100))
            raise Difference(machine, program, name, diff)


def smaller(program):
    """Programs with one thing less: each list without an item, and an item that contains lists in its place."""
    if isinstance(program, list):
        for position in range(len(program)):
            yield program[:position] + program[position + 1 :]
    if isinstance(program, list | tuple):
        for position, part in enumerate(program):
            for less in smaller(part):
                yield type(program)([*program[:position], less, *program[position + 1 :]])


def smallest(machine, program, names=URING_MONITORS, loop_factory=make_loop):
    """What is left of a program that differs, without what is not needed for that."""
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for less in smaller(program):
            try:
                compare(machine, less, names, loop_factory)
            except Difference:
                program, is_smaller = less, True
                break
    return program


class Machine:
    """Base class."""

    name = ""
    programs = None
    monitors = URING_MONITORS  # on which it runs

    def new_loop(self, name, loop_factory):
        return loop_factory(name)

    def run(self, world, program):
        raise NotImplementedError

    def comparable(self, lines):
        return lines


def pair(kind, shrink=False):
    """Two connected sockets that do not block."""
    if kind == "tcp":
        with socket.socket() as listener:
            if shrink:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            near = socket.socket()
            if shrink:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            near.connect(listener.getsockname())
            far, _ = listener.accept()
        for end in (near, far):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        near, far = socket.socketpair()
        if shrink:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    near.setblocking(False)
    far.setblocking(False)
    return near, far

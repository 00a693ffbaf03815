"""An integrity torture test: connections act at random, and every byte and every callback is verified.

    python -m tests.stress.integrity --monitor io_uring --seconds 600 --seed 1

It works in rounds.  A round opens servers (TCP, UNIX, TLS) and a number of connections, and lets them run to their end
(integrity_sides.py describes what they do and verify); then nothing may be left: no request in flight, no worker
thread of the kernel, no fd, no transport, and no call of the exception handler that was not planned.  Over all rounds
the memory must stay flat.

A failure prints the seed, the round and the last steps of the connection.  `--first-round R --rounds 1` with the same
seed repeats the plan of that round; what the kernel's timing decides may differ.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import os
import pathlib
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
import weakref

TESTS = pathlib.Path(__file__).parent.parent
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))

from support.helpers import STOCK, URING_MONITORS, client_tls, make_loop, server_tls  # noqa: E402

from .integrity_sides import PATTERN, Exit, Interrupt, Link, Planned, Side  # noqa: E402

KINDS = ("tcp", "tcp", "unix", "pair", "tls", "unix+tls", "pair+tls", "starttls")
STOCK_KINDS = ("tcp", "unix", "pair")  # asyncio's own TLS sometimes stops in the middle
QUIET_SECONDS = 10  # the time for what ends asynchronously
LOOP_ROUNDS = 25  # a loop is used for about this many rounds
ROUNDS_TO_JUDGE_MEMORY = 24
MEMORY_GROWTH_MIB = 8  # allocators are not exact


class IntegrityError(AssertionError):
    """What went wrong, with everything needed to reproduce it."""


class Torture:
    """All rounds of one seed on one monitor.

    Parameters:
        new_loop: a function that makes a loop.
        seed: all random decisions follow from it.
        count: connections per round.
        largest: bytes of the largest streams.
        interrupting: the probability that an acting callback raises KeyboardInterrupt or SystemExit.
    """

    side_class = Side

    def __init__(
        self, new_loop, seed, *, count=40, largest=3_000_000, interrupting=0.01, trace=False, kinds=None
    ):
        self.new_loop = new_loop
        self.seed = seed
        self.count = count
        self.largest = largest
        self.interrupting = interrupting
        self.trace = trace
        self.given_kinds = kinds
        self.round = -1
        self.loop = None
        self.failures = []
        self.n_steps = self.n_interrupts = self.n_nested = self.n_stops = self.n_links = self.n_bytes = 0
        self.n_planned = 0
        self.rss = []
        self.workers_most = 0
        self.fds = None
        self.tasks = set()
        self.transports = weakref.WeakSet()
        self.server_tls = server_tls()
        self.client_tls = [client_tls(), client_tls()]
        self.client_tls[1].maximum_version = self.client_tls[1].maximum_version.TLSv1_2
        self.folder = tempfile.TemporaryDirectory()
        self.path = os.path.join(self.folder.name, "pattern")
        with open(self.path, "wb") as file:
            file.write(PATTERN)

    def close(self):
        self.close_loop()
        self.folder.cleanup()

    def abandon(self):
        """After a failure: end what is still open."""
        for side in list(self.live):
            side.transport.abort()
        self.run(self.settled())
        self.close()

    async def settled(self):
        while self.tasks or self.live:
            await asyncio.sleep(0.001)

    # Called by the sides

    def note(self, link, what):
        self.n_steps += 1
        line = f"{self.n_steps} {'  ' * self.depth}{what}"
        if link is not None:
            link.notes.append(line)
        if self.trace:
            print(f"{link.number if link else '?'}: {line}", flush=True)

    def fail(self, link, what):
        notes = "\n".join(f"    {line}" for line in link.notes) if link is not None else ""
        self.failures.append(f"step {self.n_steps}: {what}\n{link!r}\n{notes}")

    def planned_error(self, link, name):
        """An exception that must reach the exception handler exactly once."""
        error = Planned(f"{name} of connection {link.number}")
        self.planned[id(error)] = error
        self.n_planned += 1
        return error

    def may_interrupt(self, link, name):
        """Whether KeyboardInterrupt from this callback leaves the connection intact and unwinds no task."""
        if self.in_tasks or name == "factory":
            return False
        return not (
            self.is_stock and name == "resume_writing"
        )  # its _write_ready() asserts that data are left

    def start(self, coroutine):
        task = self.loop.create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def handle(self, loop, context):
        """The loop's exception handler."""
        error = context.get("exception")
        if isinstance(error, Planned) and self.planned.pop(id(error), None) is not None:
            return
        if isinstance(error, Planned) and id(error) in self.repeatable:
            return
        if isinstance(error, (Interrupt, Exit)) and "task" in context["message"].lower():
            return  # it also unwound one of our tasks; if a connection needed that task, the hang is reported
        self.failures.append(f"step {self.n_steps}: the exception handler was called: {context!r}")

    # Rounds

    def run_round(self, number):
        """Raises: IntegrityError."""
        self.round = number
        self.dice = random.Random(f"{self.seed}:{number}")
        if self.loop is None or self.dice.randrange(LOOP_ROUNDS) == 0:
            self.close_loop()
            self.open_loop()
        self.links, self.live, self.planned, self.repeatable = {}, set(), {}, set()
        self.depth = self.in_tasks = self.n_accepted = 0
        self.nesting = 0 if self.is_stock else self.dice.choice((0, 0.02, 0.2))
        self.deepest = self.dice.choice((1, 3, 6))
        self.sends_files = self.dice.random() < 0.5
        self.run(self.connections())
        self.check_quiet()
        self.raise_failures()

    def open_loop(self):
        self.loop = self.new_loop()
        self.loop.set_exception_handler(self.handle)
        self.is_stock = not hasattr(self.loop, "statistics")
        self.kinds = self.given_kinds or (STOCK_KINDS if self.is_stock else KINDS)
        near, far = socket.socketpair()
        with (
            near,
            far,
        ):  # the first watched fd leaves a permanent request in flight, and so does the first listener
            self.loop.add_reader(near, int)
            self.run(self.listen_once())
            self.loop.remove_reader(near)
        self.in_flight = self.count_in_flight()

    async def listen_once(self):
        server = await self.loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        await asyncio.sleep(0)
        server.close()
        await server.wait_closed()

    def close_loop(self):
        if self.loop is not None:
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()
            if self.count_in_flight():
                self.failures.append(f"{self.count_in_flight()} requests in flight after close()")
        self.loop = None

    def run(self, coroutine):
        """Run a coroutine to its end, although the loop is interrupted and stopped meanwhile."""
        task = self.loop.create_task(coroutine)
        task.add_done_callback(lambda task: self.loop.stop())
        while not task.done():
            with contextlib.suppress(Interrupt, Exit):
                self.loop.run_forever()
        task.result()

    def raise_failures(self):
        if self.failures:
            shown = "\n\n".join(self.failures[:5])
            raise IntegrityError(
                f"seed {self.seed}, round {self.round}: {len(self.failures)} failures, the first are:\n{shown}"
            )

    async def connections(self):
        """Open all connections of a round and wait until they have ended."""
        servers, places = await self.listen()
        for number in range(self.count):
            number += self.round * self.count
            link = Link(self, number, random.Random(f"{self.seed}:{number}"))
            self.links[number] = link
        opening = []
        for link in self.links.values():
            opening.append(self.start(self.connect(link, places)))
            for _ in range(self.dice.choice((0, 0, 1, 10))):
                await asyncio.sleep(0)
        deadline = time.monotonic() + self.patience()
        while (self.tasks or self.live) and not self.failures:
            if time.monotonic() > deadline:
                self.describe_hang()
                break
            await asyncio.sleep(0.001)
        for task in opening:
            if task.done() and task.exception() is not None:
                self.failures.append(f"connecting failed: {task.exception()!r}")
        for server in servers:
            server.close()
        self.n_links += len(self.links)
        if not self.failures:
            for link in self.links.values():
                link.verify()

    def patience(self):
        return 60

    def describe_hang(self):
        sides = [side for side in self.live]
        self.failures.append(f"{len(sides)} sides and {len(self.tasks)} tasks never ended: {self.tasks!r}")
        for link in self.links.values():
            if not link.sides or any(side in self.live for side in link.sides.values()):
                self.fail(link, "this connection never ended")

    async def listen(self):
        """Servers of all kinds, and their addresses."""
        loop, path = self.loop, os.path.join(self.folder.name, f"socket{self.round}")
        servers = [
            await loop.create_server(self.accept, "127.0.0.1", 0),
            await loop.create_server(self.accept, "127.0.0.1", 0, ssl=self.server_tls),
            await loop.create_unix_server(self.accept, path),
            await loop.create_unix_server(self.accept, f"{path}tls", ssl=self.server_tls),
        ]
        tcp, tls = (server.sockets[0].getsockname() for server in servers[:2])
        return servers, {"tcp": tcp, "starttls": tcp, "tls": tls, "unix": path, "unix+tls": f"{path}tls"}

    def accept(self):
        """The servers' factory: the connection is identified by its header."""
        self.n_accepted += 1
        side = self.side_class(
            self, "server", dice=random.Random(f"{self.seed}:{self.round}:{self.n_accepted}")
        )
        return side.make()

    async def connect(self, link, places):
        loop = self.loop
        link.has_header = "pair" not in link.kind
        side = self.side_class(self, "client", link)
        tls = {}
        if link.is_tls:
            tls = {"ssl": self.client_tls[link.number % 2], "server_hostname": "localhost"}
        try:
            if not link.has_header:
                await self.connect_pair(link, side, tls)
            elif "unix" in link.kind:
                await loop.create_unix_connection(side.make, places[link.kind], **tls)
            else:
                tls = tls if link.kind == "tls" else {}
                await loop.create_connection(side.make, *places[link.kind], **tls)
        except (OSError, Planned) as error:
            if not link.is_rude:
                self.fail(link, f"connecting failed: {error!r}")

    async def connect_pair(self, link, client, tls):
        near, far = socket.socketpair()
        server = self.side_class(self, "server", link)
        accepting = self.start(
            self.loop.connect_accepted_socket(server.make, far, ssl=self.server_tls if tls else None)
        )
        try:
            await self.loop.create_connection(client.make, sock=near, **tls)
        finally:
            await accepting

    # Leftovers

    def check_quiet(self):
        """Nothing of the round is left."""
        if self.failures:
            return
        if self.planned:
            self.failures.append(f"never reported: {list(self.planned.values())!r}")
        self.links = self.planned = None
        self.until(
            lambda: self.count_in_flight() <= self.in_flight, self.count_in_flight, "requests in flight"
        )
        self.workers_most = max(self.workers_most, count_workers())
        self.until(self.has_no_transports, lambda: list(self.transports), "transports are alive")
        if self.fds is None:
            self.fds = count_fds()
        self.until(
            lambda: count_fds() <= self.fds, lambda: f"{count_fds()} instead of {self.fds}", "fds are open"
        )
        self.rss.append(resident_mib())

    def until(self, condition, value, what):
        deadline = time.monotonic() + QUIET_SECONDS
        while not condition():
            if time.monotonic() > deadline:
                self.failures.append(f"{value()} {what}")
                return
            self.run(asyncio.sleep(0.001))

    def has_no_transports(self):
        gc.collect()
        return not self.transports

    def count_in_flight(self):
        return 0 if self.is_stock else self.loop.statistics()["in_flight"]

    def check_memory(self):
        """Memory does not grow in the second half of the rounds."""
        if len(self.rss) < ROUNDS_TO_JUDGE_MEMORY:
            return
        half = self.rss[len(self.rss) // 2 :]
        before, after = (statistics.median(part) for part in (half[: len(half) // 2], half[len(half) // 2 :]))
        if after > before * 1.05 + MEMORY_GROWTH_MIB:
            self.failures.append(f"resident memory grows: {before:.1f} to {after:.1f} MiB in the second half")

    def check_workers(self):
        """The kernel's worker threads for operations that block; idle ones end after five seconds."""
        deadline = time.monotonic() + QUIET_SECONDS
        while count_workers() and time.monotonic() < deadline:
            time.sleep(0.05)
        if count_workers():
            self.failures.append(f"{count_workers()} kernel workers are left")

    def progress(self):
        rss = self.rss[-1] if self.rss else 0
        return (
            f"rounds {self.round + 1}, connections {self.n_links}, {self.n_bytes / 1e6:.0f} MB, steps {self.n_steps}, "
            f"nested {self.n_nested}, interrupts {self.n_interrupts}, stops {self.n_stops}, raised {self.n_planned}, "
            f"workers at most {self.workers_most}, {rss:.0f} MiB"
        )


def count_workers():
    count = 0
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{task}/comm") as file:
            count += file.read().startswith("iou-wrk")
    return count


def count_fds():
    """Rings do not count: some are kept for the next loop."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{fd}") != "anon_inode:[io_uring]"
    return count


def resident_mib():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python -m tests.stress.integrity", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--monitor", choices=[*URING_MONITORS, STOCK], default="io_uring")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="number of rounds, regardless of --seconds")
    parser.add_argument("--first-round", type=int, default=0)
    parser.add_argument("--count", type=int, default=40, help="connections per round")
    parser.add_argument("--largest", type=int, default=3_000_000, help="bytes of the largest streams")
    parser.add_argument(
        "--interrupting", type=float, default=0.01, help="how often callbacks are interrupted"
    )
    parser.add_argument("--kinds", help=f"kinds of connections, {','.join(KINDS)}")
    parser.add_argument("--trace", action="store_true", help="print every step")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    torture = Torture(
        lambda: make_loop(options.monitor),
        options.seed,
        count=options.count,
        largest=options.largest,
        interrupting=options.interrupting,
        trace=options.trace,
        kinds=tuple(options.kinds.split(",")) if options.kinds else None,
    )
    try:
        run_for(torture, options)
    except IntegrityError as error:
        print(f"{options.monitor}: {error}", flush=True)
        os._exit(1)  # whatever is still open would only print more
    print(f"{options.monitor} seed {options.seed}: nothing was lost", flush=True)


def run_for(torture, options):
    """Run for `options.seconds`, or `options.rounds` rounds, with a line of progress every ten seconds."""
    started = reported = time.monotonic()
    number = options.first_round
    is_over = False
    while not is_over:
        faulthandler.dump_traceback_later(150, exit=True)  # for a round that does not even reach its deadline
        torture.run_round(number)
        number += 1
        now = time.monotonic()
        is_over = number - options.first_round == options.rounds
        is_over |= options.rounds is None and now - started > options.seconds
        if is_over or now - reported > 10:
            reported = now
            print(
                f"{options.monitor} seed {options.seed}: {now - started:.0f} s, {torture.progress()}",
                flush=True,
            )
    torture.check_memory()
    torture.close()
    torture.check_workers()
    faulthandler.cancel_dump_traceback_later()
    torture.raise_failures()


if __name__ == "__main__":
    main()

"""Loops in threads that call each other all the time: the test of everything that crosses threads.

    python -m tests.stress.crossing_threads --monitor io_uring --threads 8 --seconds 600 --seed 1

Each thread makes loop after loop.  A loop serves connections, and its tasks call the other loops in every way that
asyncio allows: call_soon_threadsafe(), run_coroutine_threadsafe() and its cancellation, futures that another thread
resolves, connections and datagrams between loops, bottom halves, collections of garbage that has transports in it.
With --misuse they also do what asyncio does not allow; then nothing is verified but that the process goes on.

It is for a Python without a GIL, and runs with one as well.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import gc
import logging
import os
import pathlib
import random
import socket
import sys
import threading
import time
import traceback
import warnings
from collections import Counter

TESTS = pathlib.Path(__file__).parent.parent
if str(TESTS) not in sys.path:
    sys.path.append(str(TESTS))

from support.helpers import STOCK, URING_MONITORS, make_loop  # noqa: E402

OWN_ERRORS = (ConnectionError, TimeoutError, asyncio.TimeoutError, asyncio.CancelledError, OSError)
PATIENCE_S = 60


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, address):
        if data.startswith(b"?"):
            self.transport.sendto(b"!" + data[1:], address)
        else:
            waiter = self.waiters.pop(data[1:], None)
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def __init__(self):
        self.waiters = {}


class Member:
    """A thread, and the loop that it runs at the moment."""

    def __init__(self, group, number):
        self.group = group
        self.number = number
        self.random = random.Random(group.seed * 1000 + number)
        self.loop = None
        self.address = None
        self.handles = []
        self.transports = []
        self.counts = Counter()
        self.n_called = 0
        self.thread = threading.Thread(target=self.work, name=f"crossing {number}")

    def work(self):
        try:
            generation = 0
            while not self.group.is_over():
                self.run_loop(generation)
                generation += 1
        except BaseException:
            self.group.failed(traceback.format_exc())

    def run_loop(self, generation):
        loop = make_loop(self.group.monitor)
        loop.set_exception_handler(self.report)
        try:
            loop.run_until_complete(self.live(loop, generation))
        finally:
            self.loop = None
            self.address = None
            with contextlib.suppress(*OWN_ERRORS):
                loop.run_until_complete(loop.shutdown_asyncgens())
            if not self.group.has_misuse:
                loop.run_until_complete(loop.shutdown_default_executor())
            loop.close()

    def report(self, loop, context):
        error = context.get("exception")
        # a call of another thread may still begin when the loop ends
        is_late = context["message"] == "Task was destroyed but it is pending!"
        if not self.group.has_misuse and not isinstance(error, OSError) and not is_late:
            self.group.failed(f"{context['message']}: {error!r}")

    async def live(self, loop, generation):
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        datagrams, protocol = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
        self.datagrams = protocol
        self.address = server.sockets[0].getsockname()
        self.loop = loop  # from now on the others use it
        end = loop.time() + self.random.uniform(0.2, 1.5)
        tasks = [loop.create_task(self.busy(loop, end)) for _ in range(4)]
        try:
            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*tasks)
        except TimeoutError:
            self.group.failed(
                f"loop {self.number}.{generation} has stopped: {[t.get_stack() for t in tasks]}"
            )
        finally:
            self.loop = None
            self.address = None
            server.close()
            datagrams.close()
            self.transports.clear()
            others = asyncio.all_tasks(loop) - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    async def busy(self, loop, end):
        steps = [
            self.call,
            self.call_and_cancel,
            self.flood,
            self.resolve,
            self.connect,
            self.drop,
            self.datagram,
            self.timers,
            self.bottom_half,
            self.collect,
            self.in_executor,
        ]
        if self.group.has_misuse:
            steps += [self.misuse] * 6
        while loop.time() < end and not self.group.is_over():
            other = self.random.choice(self.group.members)
            step = self.random.choice(steps)
            there, address = other.loop, other.address
            if there is None or address is None:
                await asyncio.sleep(0.001)
                continue
            try:
                await step(loop, other, there, address)
                self.counts[step.__name__] += 1
            except OWN_ERRORS as error:
                if isinstance(error, asyncio.CancelledError) and asyncio.current_task().cancelling():
                    raise
                self.counts[f"{step.__name__}: {type(error).__name__}"] += 1
            except RuntimeError as error:
                if "closed" not in str(error) and not self.group.has_misuse:
                    raise
                self.counts[f"{step.__name__}: closed"] += 1

    # -- what asyncio allows ----------------------------------------------------------------------------------

    async def answer(self, number):
        if number % 3 == 0:
            await asyncio.sleep(0)
        return number + 1

    async def call(self, loop, other, there, address):
        numbers = [self.random.randrange(1000) for _ in range(self.random.randrange(1, 20))]
        results = [asyncio.run_coroutine_threadsafe(other.answer(n), there) for n in numbers]
        if there is loop:
            found = await asyncio.gather(*map(asyncio.wrap_future, results))
        else:
            # the other loop may end, and with it those that it has not begun
            found = await asyncio.wait_for(asyncio.gather(*map(asyncio.wrap_future, results)), 5)
        assert found == [n + 1 for n in numbers]

    async def call_and_cancel(self, loop, other, there, address):
        future = asyncio.run_coroutine_threadsafe(asyncio.sleep(30), there)
        for _ in range(self.random.randrange(3)):
            await asyncio.sleep(0)
        future.cancel()
        assert future.cancelled()

    def called(self):
        self.n_called += 1

    async def flood(self, loop, other, there, address):
        done = loop.create_future()
        n_left = n_calls = self.random.randrange(1, 200)
        order = []

        def back(number):
            order.append(number)
            if len(order) == n_calls and not done.done():
                done.set_result(None)

        def forth(number):
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(back, number)

        for number in range(n_left):
            there.call_soon_threadsafe(forth, number)
        handle = there.call_soon_threadsafe(other.called)
        handle.cancel()
        await asyncio.wait_for(done, 5)
        assert order == list(range(n_calls)), order

    async def resolve(self, loop, other, there, address):
        future = loop.create_future()

        def set_result():
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(lambda: future.done() or future.set_result(5))

        there.call_soon_threadsafe(set_result)
        assert await asyncio.wait_for(future, 5) == 5

    async def connect(self, loop, other, there, address):
        reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), 5)
        try:
            for _ in range(self.random.randrange(1, 6)):
                data = self.random.randbytes(self.random.choice((1, 100, 5000, 70_000)))
                writer.write(data)
                await writer.drain()
                assert await asyncio.wait_for(reader.readexactly(len(data)), 5) == data
        except asyncio.IncompleteReadError:
            pass  # the other loop has ended
        finally:
            if self.random.random() < 0.5:
                writer.close()
                with contextlib.suppress(*OWN_ERRORS):
                    await writer.wait_closed()
            else:
                writer.transport.abort()

    async def drop(self, loop, other, there, address):
        """Leave a connection to the collector, which may run in any thread."""
        reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), 5)
        writer.write(b"x")
        cycle = [reader, writer]
        cycle.append(cycle)

    async def datagram(self, loop, other, there, address):
        name = str(self.random.random()).encode()
        waiter = self.datagrams.waiters[name] = loop.create_future()
        target = other.datagrams.transport.get_extra_info("sockname")
        if target is None:
            return
        self.datagrams.transport.sendto(b"?" + name, target)
        await asyncio.wait_for(waiter, 2)

    async def timers(self, loop, other, there, address):
        handles = [loop.call_later(self.random.random() / 100, self.called) for _ in range(50)]
        there.call_soon_threadsafe(
            lambda: [there.call_later(0.001, other.called).cancel() for _ in range(20)]
        )
        await asyncio.sleep(self.random.random() / 200)
        for handle in handles[::2]:
            handle.cancel()

    async def bottom_half(self, loop, other, there, address):
        if self.group.monitor == STOCK:
            return
        half = there.aio_context.new_bottom_half(other.called)
        for _ in range(5):
            half.schedule()
            half.schedule_idle()
        if self.random.random() < 0.5:
            half.cancel()
        half.delete()
        there.aio_context.schedule_one_shot(other.called)
        there.aio_context.notify()

    async def collect(self, loop, other, there, address):
        if self.random.random() < 0.1:
            gc.collect()

    async def in_executor(self, loop, other, there, address):
        assert await loop.run_in_executor(None, sum, range(100)) == 4950

    # -- what it does not allow -------------------------------------------------------------------------------

    async def misuse(self, loop, other, there, address):
        if len(self.transports) < 3:
            _, writer = await asyncio.wait_for(asyncio.open_connection(*address), 5)
            self.transports.append(writer.transport)
            self.handles.append(loop.call_later(1, self.called))
        transport = self.random.choice(list(other.transports) or self.transports)
        handle = self.random.choice(list(other.handles) or self.handles)
        wrong = [
            lambda: there.call_soon(other.called),
            lambda: there.call_later(0.01, other.called).cancel(),
            lambda: there.create_task(other.answer(1)),
            lambda: transport.write(b"wrong" * self.random.randrange(1000)),
            lambda: transport.writelines([b"wrong", b"thread"]),
            lambda: transport.pause_reading(),
            lambda: transport.resume_reading(),
            lambda: transport.get_extra_info("peername"),
            lambda: transport.set_write_buffer_limits(10, 5),
            lambda: repr(transport),
            lambda: transport.get_protocol(),
            lambda: transport.abort() if self.random.random() < 0.2 else transport.is_closing(),
            lambda: repr(handle),
            lambda: handle.cancel(),
            lambda: there._transports.get(transport._sock_fd),
            lambda: list(there._ready) + list(there._scheduled),
            lambda: there.set_debug(False),
            lambda: there.statistics() if self.group.monitor != STOCK else None,
            lambda: there.remove_reader(transport._sock_fd),
            lambda: other.datagrams.transport.sendto(
                b"?wrong", other.datagrams.transport._sock.getsockname()
            ),
        ]
        for _ in range(10):
            with contextlib.suppress(Exception):
                self.random.choice(wrong)()
        if self.random.random() < 0.2:
            self.handles.clear()
            self.transports.clear()


class Group:
    """Members that know each other."""

    def __init__(self, monitor, n_threads, seconds, seed, has_misuse=False):
        self.monitor = monitor
        self.seed = seed
        self.has_misuse = has_misuse
        self.failures = []
        self.end = time.monotonic() + seconds
        self.members = [Member(self, number) for number in range(n_threads)]

    def is_over(self):
        return time.monotonic() >= self.end or bool(self.failures)

    def failed(self, text):
        self.failures.append(text)

    def run(self):
        """Returns: what was done, counted by name."""
        for member in self.members:
            member.thread.start()
        for member in self.members:
            member.thread.join()
        if self.failures:
            raise AssertionError("\n".join(self.failures))
        return sum((member.counts for member in self.members), Counter())


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--monitor", choices=[*URING_MONITORS, STOCK], default=URING_MONITORS[0])
    parser.add_argument("--threads", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    parser.add_argument("--misuse", action="store_true", help="what asyncio does not allow, too")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ResourceWarning)
    logging.getLogger("concurrent.futures").setLevel(
        logging.CRITICAL
    )  # cancelled when the other loop was closed
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    faulthandler.enable()
    faulthandler.dump_traceback_later(options.seconds + 3 * PATIENCE_S, exit=True)
    print(
        f"{options.monitor}, seed {options.seed}, GIL {getattr(sys, '_is_gil_enabled', lambda: True)()}",
        flush=True,
    )
    counts = Group(options.monitor, options.threads, options.seconds, options.seed, options.misuse).run()
    for name, count in sorted(counts.items()):
        print(f"{count:9} {name}")


if __name__ == "__main__":
    socket.setdefaulttimeout(None)
    main()

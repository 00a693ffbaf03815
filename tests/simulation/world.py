"""The program of a simulated run: servers and clients of every kind, for hours of virtual time; see simulator.py.

Clients connect, think for minutes, send, compare what comes back, give up waiting, shut down one direction, are reset.
What is checked all the time: streams are whole and in order; protocols are called in the order that asyncio promises,
and not after connection_lost(); timers are not early; nothing reaches the loop's exception handler that no fault
explains. And at the end: no task, no fd and no memory is left, and nothing is in flight.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import random
import socket
import struct
import sys
import tempfile
import zlib

from support.helpers import STOCK, make_loop

from .simulator import FAULTS

ADDRESS = "\0uringloop-simulation-{}-{}"
MOST_BYTES = 60_000
OUT_OF_SYSTEM_RESOURCE = "out of system resource"  # asyncio's words for an accept() that failed


class Broken(Exception):
    """A property does not hold."""


class Kernel:
    """The simulated one, which is preloaded."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL(None)
        for name in ("sim_digest", "sim_events", "sim_faults", "sim_now_ns"):
            getattr(self.library, name).restype = ctypes.c_uint64

    def start(self, settings: dict) -> None:
        for name, odds in settings["odds"].items():
            self.library.sim_odds(FAULTS.index(name), odds)
        self.library.sim_trace(settings["trace"])
        if settings["planted"]:
            self.library.sim_plant(settings["planted"].encode())
        if error := self.library.sim_start(ctypes.c_uint64(settings["seed"])):
            raise OSError(error, f"seccomp: {os.strerror(error)}")

    def reset(self, fd: int) -> None:
        self.library.sim_reset(fd)

    def counts(self) -> dict[str, int]:
        return {name: self.library.sim_faults(number) for number, name in enumerate(FAULTS)}


# Protocols


class Ordered:
    """Checks the order in which a protocol is called."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.stage = "new"
        self.is_paused = False

    def expect(self, stages: str, called: str) -> None:
        if self.stage not in stages.split():
            raise Broken(f"{called}() of a protocol that is {self.stage}")

    def connection_made(self, transport) -> None:
        self.expect("new", "connection_made")
        self.stage = "open"
        self.transport = transport

    def eof_received(self):
        self.expect("open", "eof_received")
        self.stage = "at-eof"

    def connection_lost(self, error) -> None:
        self.expect("open at-eof", "connection_lost")
        self.stage = "lost"
        self.error = error

    def pause_writing(self) -> None:
        self.expect("open at-eof", "pause_writing")
        if self.is_paused:
            raise Broken("pause_writing() twice")
        self.is_paused = True

    def resume_writing(self) -> None:
        self.expect("open at-eof", "resume_writing")
        if not self.is_paused:
            raise Broken("resume_writing() without pause_writing()")
        self.is_paused = False


class Echo(Ordered, asyncio.Protocol):
    """A server that stops reading while it cannot write, and sometimes for no reason."""

    def data_received(self, data: bytes) -> None:
        self.expect("open", "data_received")
        if not data:
            raise Broken("data_received() without data")
        if self.world.random.random() < 0.5:
            self.transport.write(data)
        else:
            middle = self.world.random.randrange(len(data) + 1)
            self.transport.writelines([data[:middle], memoryview(data)[middle:]])
        if self.world.random.random() < 0.1 and not self.transport.is_closing():
            self.transport.pause_reading()
            self.world.loop.call_later(self.world.random.random() * 10, self.go_on)

    def go_on(self) -> None:
        if self.stage != "lost" and not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self):
        super().eof_received()
        return False  # after what is written


class BufferedEcho(Ordered, asyncio.BufferedProtocol):
    """The same into a buffer of its own."""

    def get_buffer(self, sizehint: int):
        self.expect("open", "get_buffer")
        self.buffer = bytearray(self.world.random.choice([1, 1000, 65536]))
        return self.buffer

    def buffer_updated(self, n_bytes: int) -> None:
        self.expect("open", "buffer_updated")
        self.transport.write(memoryview(self.buffer)[:n_bytes])


class Collector(Ordered, asyncio.Protocol):
    """A client's side."""

    def __init__(self, world: "World") -> None:
        super().__init__(world)
        self.data = bytearray()
        self.changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.expect("open", "data_received")
        self.data += data
        self.changed.set()

    def eof_received(self):
        super().eof_received()
        self.changed.set()
        return False

    def connection_lost(self, error) -> None:
        super().connection_lost(error)
        self.changed.set()


# Clients: send(data), receive(n), end(), socket_fd()


class ProtocolClient:
    async def connect(self, world: "World", address: str) -> None:
        self.transport, self.protocol = await world.loop.create_unix_connection(
            lambda: Collector(world), address
        )

    def fd(self) -> int:
        return self.transport.get_extra_info("socket").fileno()

    async def send(self, data: bytes) -> None:
        self.transport.write(data)

    async def receive(self, n_bytes: int) -> bytes:
        protocol = self.protocol
        while len(protocol.data) < n_bytes and protocol.stage == "open":
            protocol.changed.clear()
            await protocol.changed.wait()
        taken = bytes(protocol.data[:n_bytes])
        del protocol.data[:n_bytes]
        return taken

    def shut_down(self) -> None:
        self.transport.write_eof()

    async def close(self) -> None:
        self.transport.close()
        while self.protocol.stage != "lost":
            self.protocol.changed.clear()
            await self.protocol.changed.wait()


class StreamClient:
    async def connect(self, world: "World", address: str) -> None:
        self.reader, self.writer = await asyncio.open_unix_connection(address, limit=1000)

    def fd(self) -> int:
        return self.writer.get_extra_info("socket").fileno()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def receive(self, n_bytes: int) -> bytes:
        try:
            return await self.reader.readexactly(n_bytes)
        except asyncio.IncompleteReadError as error:
            return error.partial

    def shut_down(self) -> None:
        self.writer.write_eof()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


class SocketClient:
    async def connect(self, world: "World", address: str) -> None:
        self.loop = world.loop
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.data = bytearray()
        self.sending = None
        await self.loop.sock_connect(self.sock, address)

    def fd(self) -> int:
        return self.sock.fileno()

    async def send(self, data: bytes) -> None:
        self.sending = asyncio.ensure_future(self.loop.sock_sendall(self.sock, data))

    async def receive(self, n_bytes: int) -> bytes:
        while len(self.data) < n_bytes:
            data = await self.loop.sock_recv(self.sock, 10_000)
            if not data:
                break
            self.data += data
        taken = bytes(self.data[:n_bytes])
        del self.data[:n_bytes]
        return taken

    def shut_down(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        if self.sending is not None:
            self.sending.cancel()
            await asyncio.gather(self.sending, return_exceptions=True)
        self.sock.close()


CLIENTS = (ProtocolClient, StreamClient, SocketClient)
SERVERS = ("protocol", "buffered", "streams")


class World:
    """All of one run."""

    def __init__(self, settings: dict, kernel: Kernel, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.kernel = kernel
        self.loop = loop
        self.random = random.Random(settings["seed"])
        self.ends_at_s = loop.time() + settings["hours"] * 3600
        self.counts = dict.fromkeys(
            ("connections", "messages", "resets", "timers", "file_bytes", "datagrams"), 0
        )
        self.connection_s = 0.0
        self.errors: list[str] = []
        self.seen: list[list[int]] = [
            [] for _ in range(settings["n_clients"])
        ]  # by client, one for each connection
        self.folder = tempfile.mkdtemp(prefix="uringloop-simulation-")
        loop.set_exception_handler(self.on_error)

    def on_error(self, loop, context) -> None:
        error = context.get("exception")
        if OUT_OF_SYSTEM_RESOURCE in context["message"] and "ACCEPT" in self.settings["odds"]:
            return
        self.errors.append(f"{context['message']}: {error!r}")
        if isinstance(error, Broken):
            self.loop.stop()

    # -- the servers

    async def serve_stream(self, reader, writer) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(self.random.choice([1, 100, 100_000])):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async def start_servers(self) -> list[asyncio.AbstractServer]:
        addresses = {name: ADDRESS.format(os.getpid(), name) for name in SERVERS}
        self.addresses = addresses
        return [
            await self.loop.create_unix_server(lambda: Echo(self), addresses["protocol"]),
            await self.loop.create_unix_server(lambda: BufferedEcho(self), addresses["buffered"]),
            await asyncio.start_unix_server(self.serve_stream, addresses["streams"], limit=1000),
        ]

    # -- the clients

    async def client(self, number: int) -> None:
        chosen = random.Random(self.settings["seed"] * 1000 + number)
        seen = 0
        while self.loop.time() < self.ends_at_s:
            client = chosen.choice(CLIENTS)()
            await client.connect(self, self.addresses[chosen.choice(SERVERS)])
            self.counts["connections"] += 1
            began_s = self.loop.time()
            try:
                outcome = await self.converse(client, chosen)
            finally:
                self.connection_s += self.loop.time() - began_s
                await client.close()
            seen = zlib.crc32(repr((type(client).__name__, outcome)).encode(), seen)
            self.seen[number].append(seen)

    async def converse(self, client, chosen: random.Random) -> list[object]:
        """Messages, and one of several ends; returns what the client has seen, which no fault but a reset changes."""
        seen: list[object] = []
        for _ in range(chosen.randrange(1, 8)):
            await asyncio.sleep(chosen.expovariate(1 / self.settings["think_s"]))
            message = chosen.randbytes(chosen.choice([1, 100, 1000, chosen.randrange(1, MOST_BYTES)]))
            if chosen.random() < 0.2:
                try:
                    early = await asyncio.wait_for(client.receive(1), chosen.random() * 20)
                except TimeoutError:
                    seen.append("nothing")
                else:
                    raise Broken(f"{early!r} came, and nothing was sent")
            await client.send(message)
            if "RESET" in self.settings["odds"] and chosen.random() < 0.03:
                await self.be_reset(client, message, chosen)
                return [*seen, "reset"]
            if (found := await client.receive(len(message))) != message:
                raise Broken(f"{len(message)} bytes were sent, and {len(found)} other ones came back")
            self.counts["messages"] += 1
            seen.append(zlib.crc32(message))
        if chosen.random() < 0.7:
            client.shut_down()
            if rest := await client.receive(1):
                raise Broken(f"{rest!r} came after the end")
            seen.append("end")
        return seen

    async def be_reset(self, client, message: bytes, chosen: random.Random) -> None:
        """What came until then is a part of the message from its start."""
        self.counts["resets"] += 1
        await asyncio.sleep(chosen.choice([0, chosen.random()]))
        self.kernel.reset(client.fd())
        try:
            found = await client.receive(len(message))
        except ConnectionError:
            return
        if not message.startswith(found):
            raise Broken("what came before a reset was not sent")

    # -- other things that go on

    async def timers(self) -> None:
        """Timers are not early, and run in the order of their times."""
        last_s = 0.0

        def expired(due_s: float) -> None:
            nonlocal last_s
            if self.loop.time() < due_s - 1e-6:
                raise Broken("a timer was early")
            if due_s < last_s:
                raise Broken("a timer ran before an earlier one")
            last_s = due_s
            self.counts["timers"] += 1

        while self.loop.time() < self.ends_at_s:
            due = [self.loop.time() + self.random.expovariate(1 / 100) for _ in range(20)]
            handles = [self.loop.call_at(one, expired, one) for one in due]
            for handle in handles[::3]:
                handle.cancel()
            await asyncio.sleep(2000)
            last_s = 0.0

    async def datagrams(self) -> None:
        """Datagrams are whole; on UNIX sockets none is lost."""
        world, received = self, []

        class Receiver(asyncio.DatagramProtocol):
            def datagram_received(self, data, address) -> None:
                received.append(data)
                world.counts["datagrams"] += 1

        near, far = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
        address = ADDRESS.format(os.getpid(), "datagrams")
        far.bind(address)
        for sock in (near, far):
            sock.setblocking(False)
        sender, _ = await self.loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=near)
        receiver, _ = await self.loop.create_datagram_endpoint(Receiver, sock=far)
        while self.loop.time() < self.ends_at_s:
            sent = [
                struct.pack("I", n) * self.random.randrange(1, 500)
                for n in range(self.random.randrange(1, 30))
            ]
            received.clear()
            for data in sent:
                sender.sendto(data, address)
            for _ in range(20):  # a suspended machine may wake to both the timer and the data
                await asyncio.sleep(30)
                if len(received) >= len(sent):
                    break
            await asyncio.sleep(600)
            if received != sent:
                raise Broken(f"{len(sent)} datagrams were sent, and {len(received)} came, or not those")
        sender.close()
        receiver.close()

    async def pipes(self) -> None:
        """A pipe with a protocol at each end."""
        out, into = os.pipe()
        reader = asyncio.StreamReader()
        reading, _ = await self.loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(out, "rb", 0)
        )
        writing, _ = await self.loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(into, "wb", 0))
        while self.loop.time() < self.ends_at_s:
            data = self.random.randbytes(self.random.randrange(1, 200_000))
            writing.write(data)
            if await reader.readexactly(len(data)) != data:
                raise Broken("a pipe changed its data")
            await asyncio.sleep(700)
        writing.close()
        if await reader.read():
            raise Broken("a pipe had more data")
        reading.close()

    async def files(self) -> None:
        """Files are written and read back; only on io_uring, elsewhere a thread does it."""
        import uringloop

        path = os.path.join(self.folder, "file")
        while self.loop.time() < self.ends_at_s:
            data = self.random.randbytes(self.random.randrange(1, 300_000))
            async with uringloop.open(path, "wb") as file:
                await file.write(data)
            async with uringloop.open(path, "rb") as file:
                found = await file.read()
            if found != data:
                raise Broken(f"a file of {len(data)} bytes was read as {len(found)} other ones")
            self.counts["file_bytes"] += len(data)
            await asyncio.sleep(500)

    async def main(self) -> None:
        servers = await self.start_servers()
        works = [self.client(number) for number in range(self.settings["n_clients"])]
        works += [self.timers(), self.datagrams(), self.pipes()]
        if self.settings["monitor"] == "io_uring":
            works.append(self.files())
        tasks = [asyncio.ensure_future(one) for one in works]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for server in servers:
                server.close()
                await server.wait_closed()
            for _ in range(20):
                await asyncio.sleep(60)
                if len(asyncio.all_tasks()) == 1:
                    break
        if left := asyncio.all_tasks() - {asyncio.current_task()}:
            raise Broken(f"tasks are left: {left}")


def open_fds() -> list[str]:
    """What is open, without the folder that is listed, and the empty ring that is kept for the next loop."""
    listed = "/proc/self/fd"
    found = []
    for name in sorted(os.listdir(listed), key=int):
        with contextlib.suppress(OSError):
            path = os.readlink(f"{listed}/{name}")
            if "[io_uring]" not in path:
                found.append(f"{name} {path}")
    return found


def once(settings: dict, kernel: Kernel) -> World:
    loop = make_loop(settings["monitor"])
    asyncio.set_event_loop(loop)
    world = World(settings, kernel, loop)
    try:
        loop.run_until_complete(world.main())
        if hasattr(loop, "statistics"):
            statistics = loop.statistics()
            if statistics["leaked"]:
                raise Broken(f"{statistics['leaked']} requests are left to the kernel")
    finally:
        if world.errors:
            print("\n".join(world.errors[:20]), file=sys.stderr)
        loop.close()
        asyncio.set_event_loop(None)
        with contextlib.suppress(OSError):
            os.remove(os.path.join(world.folder, "file"))
        os.rmdir(world.folder)
    if world.errors:
        raise Broken(f"{len(world.errors)} errors reached the loop's exception handler")
    return world


def main() -> int:
    settings = json.loads(os.environ.pop("SIMULATION"))
    logging.basicConfig(level=logging.ERROR)
    kernel = Kernel()
    # Imports, and what is made once; not on io_uring: its empty ring, one of the real kernel, is for the next loop.
    make_loop(STOCK if settings["monitor"] == STOCK else "epoll").close()
    gc.collect()
    kernel.start(settings)
    before = open_fds()
    world = once(settings, kernel)
    gc.collect()
    after = open_fds()
    if after != before:
        raise Broken(f"fds are left: {after}, before: {before}")
    found = {
        "digest": f"{kernel.library.sim_digest():016x}",
        "events": kernel.library.sim_events(),
        "connection_hours": world.connection_s / 3600,
        **world.counts,
        "seen": world.seen,
        **{f"fault {name}": count for name, count in kernel.counts().items()},
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

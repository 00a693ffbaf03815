"""What the tests of LoopGroup run in members: other interpreters import it."""

import asyncio
import dataclasses
import os
import pathlib
import ssl
import threading

DATA = pathlib.Path(__file__).parent / "data"


class Echo(asyncio.Protocol):
    """Returns what it gets; on b"who" the number of the thread, on b"die" the member ends."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        if data == b"who":
            data = b"%d" % threading.get_ident()
        elif data == b"die":
            raise SystemExit("by request")
        self.transport.write(data)


class Exits(asyncio.Protocol):
    def connection_made(self, transport):
        raise SystemExit("by request")


def fails():
    raise ValueError("no protocol")


def server_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(DATA / "cert.pem", DATA / "key.pem")
    return context


async def thread_id():
    return threading.get_ident()


async def monitor():
    return asyncio.get_running_loop().fdmon


async def add(one, other=0):
    return one + other


async def raises():
    raise LookupError("remote")


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen(Exception):
    """Takes no notes."""

    code: int


async def raises_frozen():
    raise Frozen(4)


async def stays_unless(member, path):
    if path.exists():
        raise GeneratorExit("as long as there is a file")
    await member.draining()


async def leave():
    raise SystemExit(3)


class Unpicklable(Exception):
    def __init__(self, *, keyword):
        super().__init__(keyword)


async def raises_what_cannot_be_pickled():
    raise Unpicklable(keyword="only by text")


async def returns_what_cannot_be_pickled():
    return threading.Lock()


async def wait_for_ever(fd):
    """Writes a byte when it begins, and one when it is cancelled."""
    os.write(fd, b"1")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        os.write(fd, b"2")


async def take_all_memory(began_fd, until_fd):
    """All but 4 MiB, until something can be read."""
    reserve = bytearray(1 << 22)
    taken = []
    size = 1 << 28
    while size > 1 << 16:
        try:
            taken.append(bytearray(size))
        except MemoryError:
            size //= 2
    del reserve
    os.write(began_fd, b"1")
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    loop.add_reader(until_fd, readable.set_result, None)
    await readable
    loop.remove_reader(until_fd)
    taken.clear()
    bytearray(1 << 29)  # raises MemoryError


async def block(began_fd, until_fd):
    """The loop does not run until something can be read."""
    os.write(began_fd, b"1")
    os.read(until_fd, 1)


async def die():
    raise SystemExit("by request")


# for LoopGroup.run()


async def service(member, fd, number):
    """Writes its member's number and this one when it begins; and when the group drains."""
    os.write(fd, b"+%d" % (member.index + number))
    await member.draining()
    os.write(fd, b"-%d" % (member.index + number))


async def deaf_service(member, fd):
    """Does not ask whether it shall end."""
    os.write(fd, b"+")
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        os.write(fd, b"c")


async def service_that_fails_while_there_is(member, path):
    if os.path.exists(path):
        raise LookupError("not now")
    member.started()
    await member.draining()


async def failing_service(member):
    raise LookupError("cannot start")


async def service_of_member_0(member, fd):
    if member.index:
        raise LookupError("only in member 1")
    await deaf_service(member, fd)


async def service_that_fails_later(member, fd):
    """Fails when something can be read."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()
    member.started()
    loop.add_reader(fd, readable.set_result, None)
    try:
        await readable
    finally:
        loop.remove_reader(fd)
    os.read(fd, 1)
    raise LookupError("failed later")


async def echo_service(member):
    """Servers of its own on the group's sockets."""
    servers = [await asyncio.get_running_loop().create_server(Echo, sock=sock) for sock in member.sockets]
    member.started()
    await member.draining()
    for server in servers:
        server.close()

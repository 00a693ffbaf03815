"""Sockets with methods of their own, and classes and functions that replace Python's."""

import asyncio
import socket
import subprocess
import sys

import pytest
from support.helpers import STOCK, Datagrams, Recorder, monitor_of, socketpair, until


class Counting(socket.socket):
    """Records what passes through its methods."""

    calls = None

    @classmethod
    def of(cls, sock):
        made = cls(sock.family, sock.type, sock.proto, sock.detach())
        made.setblocking(False)
        made.calls = []
        return made

    def recv(self, *args):
        data = super().recv(*args)
        self.calls.append(("recv", data))
        return data

    def recv_into(self, buffer, *args):
        count = super().recv_into(buffer, *args)
        self.calls.append(("recv", bytes(buffer[:count])))
        return count

    def send(self, data, *args):
        count = super().send(data, *args)
        self.calls.append(("send", bytes(data[:count])))
        return count

    def sendmsg(self, buffers, *args):
        data = b"".join(buffers)
        count = super().sendmsg(buffers, *args)
        self.calls.append(("send", data[:count]))
        return count

    def recvfrom(self, *args):
        result = super().recvfrom(*args)
        self.calls.append(("recv", result[0]))
        return result

    def sendto(self, data, *args):
        count = super().sendto(data, *args)
        self.calls.append(("send", bytes(data)))
        return count


class Wrapper:
    """Not a socket: it wraps one."""

    def __init__(self, sock):
        sock.setblocking(False)
        self.inner = sock
        self.calls = []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def recv(self, *args):
        data = self.inner.recv(*args)
        self.calls.append(("recv", data))
        return data

    def send(self, data, *args):
        count = self.inner.send(data, *args)
        self.calls.append(("send", bytes(data[:count])))
        return count

    def sendmsg(self, buffers, *args):
        data = b"".join(buffers)
        count = self.inner.sendmsg(buffers, *args)
        self.calls.append(("send", data[:count]))
        return count


NEW_LOOP = """
def new_loop():
    if MONITOR == "asyncio":
        return asyncio.SelectorEventLoop()
    import uringloop
    return uringloop.new_event_loop(MONITOR)
"""


def run_in_fresh_process(source, monitor):
    """Run a script in a process that has imported nothing yet, not even the helpers; return its output."""
    code = f"MONITOR = {monitor!r}\n{NEW_LOOP}\n{source}"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=40, check=False
    )
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("make", [Counting.of, Wrapper], ids=["subclass", "wrapper"])
async def test_a_stream_goes_through_the_methods_of_its_socket(make):
    near, peer = socketpair("tcp")
    sock = make(near)
    protocol = Recorder()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    transport.write(b"question")
    await until(lambda: ("send", b"question") in sock.calls)
    assert peer.recv(100) == b"question"
    peer.send(b"answer")
    await until(lambda: protocol.data == b"answer")
    assert ("recv", b"answer") in sock.calls
    assert transport.get_extra_info("peername") == peer.getsockname()
    transport.close()
    await protocol.lost.wait()
    peer.close()


async def test_a_stream_goes_through_methods_set_on_the_socket_instance():
    near, peer = socketpair("tcp")

    class Plain(socket.socket):
        pass

    sock = Plain(near.family, near.type, near.proto, near.detach())
    sock.setblocking(False)
    sent = []
    sock.send = lambda data, *args: sent.append(bytes(data)) or socket.socket.send(sock, data, *args)
    sock.sendmsg = lambda buffers, *args: (
        sent.append(b"".join(buffers)) or socket.socket.sendmsg(sock, buffers, *args)
    )
    protocol = Recorder()
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: protocol, sock=sock)
    transport.write(b"x")
    await until(lambda: sent == [b"x"])
    assert peer.recv(10) == b"x"
    transport.close()
    await protocol.lost.wait()
    peer.close()


async def test_a_subclass_without_such_methods_gets_the_compiled_transport():
    loop = asyncio.get_running_loop()
    near, peer = socketpair("tcp")

    class Plain(socket.socket):
        def close(self):
            super().close()

    sock = Plain(near.family, near.type, near.proto, near.detach())
    sock.setblocking(False)
    protocol = Recorder()
    transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    if monitor_of(loop) != STOCK:
        assert type(transport).__module__ == "uringloop.transports.stream.classes"
    transport.abort()
    await protocol.lost.wait()
    peer.close()


async def test_connections_of_a_listener_go_through_the_methods_of_what_it_accepts():
    accepted = []

    class Listener(socket.socket):
        def accept(self):
            sock, address = super().accept()
            accepted.append(Counting.of(sock))
            return accepted[-1], address

    listener = Listener()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    protocol = Recorder()
    server = await asyncio.get_running_loop().create_server(lambda: protocol, sock=listener)
    with socket.create_connection(listener.getsockname()) as client:
        client.send(b"hello")
        await until(lambda: protocol.data == b"hello")
        assert ("recv", b"hello") in accepted[0].calls
        protocol.transport.abort()
        await protocol.lost.wait()
    server.close()
    await server.wait_closed()


async def test_datagrams_go_through_the_methods_of_their_socket():
    inner, far = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
    for end in (inner, far):
        end.bind(("127.0.0.1", 0))
    sock = Counting.of(inner)
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(Datagrams, sock=sock)
    transport.sendto(b"question", far.getsockname())
    assert far.recv(100) == b"question"
    far.sendto(b"answer", sock.getsockname())
    assert await asyncio.wait_for(protocol.received.get(), 5) == (b"answer", far.getsockname())
    assert sock.calls == [("send", b"question"), ("recv", b"answer")]
    far.close()
    transport.close()
    await protocol.lost.wait()


def count_calls(monkeypatch, *names):
    """Make Python's socket class record which of these methods are called; return the set of names."""
    called = set()

    def counting(name, method):
        def call(self, *args):
            called.add(name)
            return method(self, *args)

        return call

    for name in names:
        monkeypatch.setattr(socket.socket, name, counting(name, getattr(socket.socket, name)))
    return called


async def test_streams_go_through_methods_patched_on_pythons_own_class(monkeypatch):
    called = count_calls(monkeypatch, "accept", "recv", "send")
    protocols = []

    def serve():
        protocols.append(Recorder())
        return protocols[-1]

    loop = asyncio.get_running_loop()
    server = await loop.create_server(serve, "127.0.0.1", 0)
    transport, client = await loop.create_connection(Recorder, *server.sockets[0].getsockname())
    await until(lambda: protocols and protocols[0].transport)
    assert "accept" in called
    for one, other in ((protocols[0], client), (client, protocols[0])):
        called.clear()
        one.transport.write(b"x")
        await until(lambda one=other: one.data == b"x")
        assert called == {"recv", "send"}
    transport.close()
    await protocols[0].lost.wait()
    server.close()


async def test_an_exception_in_a_patched_method_ends_the_connection(monkeypatch):
    def fail(sock, n_bytes):
        raise ConnectionResetError("made up")

    monkeypatch.setattr(socket.socket, "recv", fail)
    near, peer = socketpair("tcp")
    near.setblocking(False)
    protocol = Recorder()
    await asyncio.get_running_loop().create_connection(lambda: protocol, sock=near)
    peer.send(b"x")
    await protocol.lost.wait()
    assert str(protocol.error) == "made up"
    peer.close()


async def test_datagrams_go_through_methods_patched_on_pythons_own_class(monkeypatch):
    called = count_calls(monkeypatch, "recvfrom", "sendto")
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    assert (await protocol.received.get())[0] == b"x"
    assert called == {"recvfrom", "sendto"}
    transport.close()
    await protocol.lost.wait()


async def test_a_file_goes_through_the_send_of_its_socket(tmp_path):
    """Stock asyncio lets the kernel send it, so that data that send() would encrypt leaves unencrypted."""
    loop = asyncio.get_running_loop()
    if monitor_of(loop) == STOCK:
        pytest.skip("stock asyncio's sendfile() bypasses the methods")
    near, peer = socketpair("tcp")
    sock = Counting.of(near)
    protocol = Recorder()
    transport, _ = await loop.create_connection(lambda: protocol, sock=sock)
    (tmp_path / "file").write_bytes(b"content")
    with open(tmp_path / "file", "rb") as file:
        assert await loop.sendfile(transport, file) == 7
    await until(lambda: ("send", b"content") in sock.calls)
    assert peer.recv(100) == b"content"
    transport.close()
    await protocol.lost.wait()
    peer.close()


REPLACED = """
import socket
class Strict(socket.socket):  # like PySocks' class
    def __init__(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0, *args, **kwargs):
        if type not in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            raise ValueError(f"Socket type must be stream or datagram, not {type!r}")
        super().__init__(family, type, proto, *args, **kwargs)
class Foreign:  # like gevent's class
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        self._sock = original(family, type, proto, fileno)
    def accept(self):
        fd, address = self._sock._accept()
        return Foreign(self.family, self.type, self.proto, fileno=fd), address
    def __getattr__(self, name):
        return getattr(self._sock, name)
original = socket.socket
socket.socket = NAME
import asyncio
async def main():
    async def echo(reader, writer):
        names.append((writer.get_extra_info("peername"), writer.get_extra_info("sockname")))
        writer.write(await reader.read(10))
        writer.close()
    names = []
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"x")
    assert await asyncio.wait_for(reader.read(10), 5) == b"x"
    assert names == [(writer.get_extra_info("sockname"), writer.get_extra_info("peername"))], names
    assert NAME is Strict or isinstance(writer.get_extra_info("socket")._sock, Foreign)
    writer.close()
    server.close()
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    transport.sendto(b"x", transport.get_extra_info("sockname"))
    transport.close()
    print("well")
with asyncio.Runner(loop_factory=new_loop, debug=DEBUG) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("is_debug", [False, True], ids=["", "debug"])
@pytest.mark.parametrize("name", ["Strict", "Foreign"])
def test_a_class_that_replaced_socket_socket_before_the_import_works(monitor, name, is_debug):
    script = REPLACED.replace("NAME", name).replace("DEBUG", str(is_debug))
    assert run_in_fresh_process(script, monitor) == "well"


GREEN = """
import _thread, threading, time
waiting = []
def start_new_thread(function, args, kwargs={}):  # as gevent does: a greenlet, which runs when others sleep
    waiting.append((function, args, kwargs))
    return 1000 + len(waiting)
def get_ident():
    return 1
def sleep(seconds):
    while waiting:
        function, args, kwargs = waiting.pop(0)
        function(*args, **kwargs)
_thread.start_new_thread = threading._start_new_thread = start_new_thread
_thread.get_ident = threading.get_ident = get_ident
threading.main_thread()._ident = 1
threading._active = {1: threading.main_thread()}
time.sleep = sleep
import asyncio
async def main():
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    _thread.start_new_thread(loop.call_soon_threadsafe, (done.set_result, 5))
    assert await asyncio.wait_for(done, 5) == 5
    began = time.monotonic()
    await asyncio.sleep(0.02)
    assert time.monotonic() - began >= 0.02
    loop.call_soon(int)
    print("well")
with asyncio.Runner(loop_factory=new_loop, debug=DEBUG) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("is_debug", [False, True], ids=["", "debug"])
def test_threads_that_are_greenlets_run_while_the_loop_waits(monitor, is_debug):
    if monitor == STOCK:
        pytest.skip("stock asyncio's selector would have to be replaced as well")
    assert run_in_fresh_process(GREEN.replace("DEBUG", str(is_debug)), monitor) == "well"

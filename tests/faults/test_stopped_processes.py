"""Processes that are stopped (SIGSTOP) and go on (SIGCONT): a peer, and the loop's own."""

import pytest
from support.forking import FORK
from support.helpers import run_script

pytestmark = pytest.mark.slow

START = """
import signal

def wait_until_stopped(pid):
    assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
"""

PEER = """
DATA = pattern(30_000_000)

class Sends(Recorder):
    def connection_made(self, transport):
        super().connection_made(transport)
        transport.write(DATA[:1000])

def receive(listener):
    with socket.create_connection(listener.getsockname()) as sock, sock.makefile("rb") as file:
        assert file.read(1000) == DATA[:1000]
        os.kill(os.getpid(), signal.SIGSTOP)
        assert file.read() == DATA[1000:]

async def main(listener, pid):
    loop = asyncio.get_running_loop()
    accepted = []
    server = await loop.create_server(lambda: accepted.append(Sends()) or accepted[-1], sock=listener)
    await until(lambda: accepted)
    sender = accepted[0]
    await loop.run_in_executor(None, wait_until_stopped, pid)
    for begin in range(1000, len(DATA), 100_000):
        sender.transport.write(DATA[begin:begin + 100_000])
    assert "pause_writing" in sender.calls
    # nothing more is taken, and others are served
    waiting = -1
    while waiting != (waiting := sender.transport.get_write_buffer_size()):
        await asyncio.sleep(0.05)
    assert waiting > 1_000_000
    echo = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*echo.sockets[0].getsockname())
    for number in range(100):
        writer.write(b"%3d" % number)
        assert await reader.readexactly(3) == b"%3d" % number
    writer.close()
    await writer.wait_closed()
    assert sender.transport.get_write_buffer_size() == waiting
    os.kill(pid, signal.SIGCONT)
    sender.transport.close()
    await sender.lost.wait()
    assert sender.error is None
    assert (await loop.run_in_executor(None, os.waitpid, pid, 0))[1] == 0
    server.close()
    echo.close()
    await turns(3)

listener = socket.create_server(("127.0.0.1", 0))
pid = fork(lambda: receive(listener))
loop = make_loop(MONITOR)
run(loop, main(listener, pid), seconds=60)
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
"""


def test_a_stopped_peer_gets_everything_and_delays_no_other(monitor):
    run_script(FORK + START + PEER, monitor)


ITSELF = """
N_TIMERS, N_CONNECTIONS = 50, 20

def serve(listener, report):
    loop = make_loop(MONITOR)
    called = []
    class StartsTimers(Echo):
        def data_received(self, data):
            if data == b"start":
                for number in range(N_TIMERS):
                    loop.call_later(0.2 + number / 1000, called.append, number)
            super().data_received(data)
    server = loop.run_until_complete(loop.create_server(StartsTimers, sock=listener))
    loop.add_signal_handler(signal.SIGTERM, loop.stop)
    os.write(report, b"x")
    loop.run_forever()
    assert called == list(range(N_TIMERS)), called
    server.close()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()

def connect():
    return socket.create_connection(listener.getsockname(), timeout=20)

listener = socket.create_server(("127.0.0.1", 0), backlog=100)
readable, report = os.pipe()
pid = fork(lambda: serve(listener, report))
assert os.read(readable, 1)
with connect() as before:
    before.sendall(b"start")
    assert before.recv(9) == b"start"
    os.kill(pid, signal.SIGSTOP)
    wait_until_stopped(pid)
    before.sendall(b"stopped")
    later = [connect() for _ in range(N_CONNECTIONS)]
    for sock in later:
        sock.sendall(b"later")
    time.sleep(0.4)  # all the timers are due
    later.pop().close()
    os.kill(pid, signal.SIGCONT)
    assert before.recv(9) == b"stopped"
    for sock in later:
        assert sock.recv(9) == b"later"
        sock.close()
os.kill(pid, signal.SIGTERM)
assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_loop_that_was_stopped_goes_on(monitor):
    """Each timer that has become due is called once, in order; who has connected or sent meanwhile is served."""
    run_script(FORK + START + ITSELF, monitor)

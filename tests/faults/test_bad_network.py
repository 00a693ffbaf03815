"""Connections and datagrams through a network that loses, delays, repeats and damages packets, or is cut."""

import pytest
from support.helpers import run_script

from .network import is_possible

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not is_possible(), reason="needs root and /dev/net/tun")]

START = """
import errno, random, signal
from faults.network import *
DELAY_S, N_CLIENTS, N_BYTES, N_DATAGRAMS = 0.005, 8, 200_000, 500

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
    def pause_writing(self):
        self.transport.pause_reading()
    def resume_writing(self):
        self.transport.resume_reading()

def with_loop(main):
    loop = make_loop(MONITOR)
    errors = []
    loop.set_exception_handler(lambda loop, details: errors.append(details))
    run(loop, main(), seconds=90)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    assert not errors, errors

def serve_with(factory, **kwargs):
    def serve(ready):
        async def main():
            loop = asyncio.get_running_loop()
            ended = loop.create_future()
            loop.add_signal_handler(signal.SIGTERM, ended.set_result, None)
            server = await loop.create_server(factory, FAR, 7, **kwargs)
            ready()
            await ended
            server.close()
        with_loop(main)
    return serve
"""

STREAMS = """
SERVER, CLIENT = {}, {}
if sys.argv[1] == "tls":
    SERVER, CLIENT = {"ssl": server_tls()}, {"ssl": client_tls(), "server_hostname": "localhost"}

async def talk():
    reader, writer = await asyncio.open_connection(FAR, 7, **CLIENT)
    data = random.randbytes(N_BYTES)
    async def send():
        for begin in range(0, N_BYTES, 5000):
            writer.write(data[begin:begin + 5000])
            await writer.drain()
    sending = asyncio.ensure_future(send())
    assert await reader.readexactly(N_BYTES) == data
    await sending
    writer.close()
    await writer.wait_closed()

async def use():
    await asyncio.gather(*[talk() for _ in range(N_CLIENTS)])

network = Network(7, lost=0.03, repeated=0.03, damaged=0.02, delay_s=DELAY_S)
network.run(serve_with(Echo, **SERVER), lambda: with_loop(use))
"""


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_streams_are_whole_and_in_order(monitor, kind):
    counts = dict(one.split("=") for one in run_script(START + STREAMS, monitor, arguments=[kind]).split())
    assert all(int(counts[name]) > 10 for name in ("lost", "repeated", "damaged"))


DATAGRAMS = """
import zlib

class Receiver(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        assert zlib.crc32(data[4:]) == int.from_bytes(data[:4])
        self.transport.sendto(data[4:12], address)

def serve(ready):
    async def main():
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_signal_handler(signal.SIGTERM, ended.set_result, None)
        transport, _ = await loop.create_datagram_endpoint(Receiver, (FAR, 7))
        ready()
        await ended
        transport.close()
    with_loop(main)

class Sender(asyncio.DatagramProtocol):
    def __init__(self):
        self.answered = set()
    def datagram_received(self, data, address):
        assert address == (FAR, 7)
        self.answered.add(int.from_bytes(data))

async def use():
    loop = asyncio.get_running_loop()
    transport, sender = await loop.create_datagram_endpoint(Sender, remote_addr=(FAR, 7))
    numbers = set(range(N_DATAGRAMS))
    while missing := numbers - sender.answered:
        for number in missing:
            content = number.to_bytes(8) + random.randbytes(random.randrange(1000))
            transport.sendto(zlib.crc32(content).to_bytes(4) + content)
            await asyncio.sleep(0)
    assert sender.answered == numbers
    transport.close()

network = Network(7, lost=0.1, repeated=0.05, damaged=0.05, delay_s=DELAY_S)
network.run(serve, lambda: with_loop(use))
"""


def test_datagrams_arrive_whole_or_not_at_all(monitor):
    counts = dict(one.split("=") for one in run_script(START + DATAGRAMS, monitor).split())
    assert all(int(counts[name]) > 10 for name in ("lost", "repeated", "damaged"))


CUT = """
async def use():
    loop = asyncio.get_running_loop()
    lost = []

    class Client(Recorder):
        def connection_lost(self, error):
            lost.append(self)
            super().connection_lost(error)

    def connect():
        return loop.create_connection(Client, FAR, 7)

    # a pause: late, and nothing is lost
    transport, client = await connect()
    data = random.randbytes(N_BYTES)
    transport.write(data)
    await until(lambda: client.data)
    network.cut(True)
    await asyncio.sleep(0.5)
    network.cut(False)
    assert await client.received(N_BYTES) == data

    # the kernel gives up
    transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 400)
    network.cut(True)
    before = set(os.listdir("/proc/self/fd"))
    transport.write(b"x" * 10_000_000)
    transport.pause_reading()  # it is noticed all the same
    await client.lost.wait()
    assert client.error.errno == errno.ETIMEDOUT, client.error
    transport.write(b"ignored")

    # a connection that cannot be made, by our limit
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(connect(), 0.3)
        raise AssertionError("connected")
    await turns(3)
    assert lost == [client]
    assert set(os.listdir("/proc/self/fd")) < before

    network.cut(False)
    transport, client = await connect()
    transport.write(b"again")
    assert await client.received(5) == b"again"
    transport.close()
    await client.lost.wait()

network = Network(7, delay_s=DELAY_S)
network.run(serve_with(Echo), lambda: with_loop(use))
"""


def test_a_network_that_is_cut_ends_connections_or_only_delays_them(monitor):
    counts = dict(one.split("=") for one in run_script(START + CUT, monitor).split())
    assert int(counts["cut"]) > 3

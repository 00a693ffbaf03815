"""Forks and exits at any moment, with traffic of every kind in flight."""

import pytest
from support.forking import FORK
from support.helpers import run_script

pytestmark = pytest.mark.slow

TRAFFIC = """
import random, threading, uringloop

async def echo(reader, writer):
    try:
        while data := await reader.read(10_000):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    writer.close()

class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
    def datagram_received(self, data, address):
        self.transport.sendto(data, address)

class Traffic:
    \"\"\"Connections, TLS, datagrams, files and timers of one loop, until `n_rounds` of each.\"\"\"
    def __init__(self, folder, n_rounds, on_round, with_tls):
        self.folder, self.n_rounds, self.on_round, self.with_tls = folder, n_rounds, on_round, with_tls

    async def run(self):
        loop = asyncio.get_running_loop()
        plain = await asyncio.start_server(echo, "127.0.0.1", 0)
        contexts = {"ssl": server_tls()} if self.with_tls else {}
        secure = await asyncio.start_server(echo, "127.0.0.1", 0, **contexts)
        datagrams, _ = await loop.create_datagram_endpoint(Datagrams, ("127.0.0.1", 0))
        tls = {"ssl": client_tls(), "server_hostname": "localhost"} if self.with_tls else {}
        await asyncio.gather(
            self.talk(plain, {}), self.talk(plain, {}), self.talk(secure, tls), self.files(), self.timers()
        )
        for server in (plain, secure):
            server.close()
        datagrams.close()
        await turns(5)

    async def talk(self, server, kwargs):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), **kwargs)
        for number in range(self.n_rounds):
            data = bytes([number % 256]) * (1 + number * 997 % 50_000)
            writer.write(data)
            assert await reader.readexactly(len(data)) == data
            self.on_round()
        writer.close()
        await writer.wait_closed()

    async def files(self):
        for number in range(self.n_rounds):
            async with uringloop.open(f"{self.folder}/file", "w+b") as file:
                await file.write(bytes([number % 256]) * 30_000)
                await file.seek(0)
                assert await file.read() == bytes([number % 256]) * 30_000
            self.on_round()

    async def timers(self):
        loop = asyncio.get_running_loop()
        for number in range(self.n_rounds):
            begin = loop.time()
            await asyncio.sleep(0.0001)
            assert loop.time() >= begin + 0.0001 - 1e-6
            self.on_round()

def run_traffic(folder, n_rounds, on_round=int, with_tls=True):
    loop = make_loop(MONITOR)
    run(loop, Traffic(folder, n_rounds, on_round, with_tls).run(), seconds=90)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
"""

FORKS = """
WHERE, FOLDER = sys.argv[1:]
N_CHILDREN, N_ROUNDS = 30, 150
children = []
numbers = random.Random(7)

def child():
    folder = f"{FOLDER}/{os.getpid()}"
    os.mkdir(folder)
    run_traffic(folder, 2, with_tls=False)

# Locks of imports and of OpenSSL that another thread holds stay locked in the child: so everything is imported, and the
# children use no TLS.
run_traffic(FOLDER, 1)
if WHERE == "thread":
    # whatever the loop's thread does at the moment
    ended = threading.Event()
    def forks():
        for _ in range(N_CHILDREN):
            ended.wait(numbers.random() * 0.02)
            children.append(fork(child))
    thread = threading.Thread(target=forks)
    thread.start()
    run_traffic(FOLDER, N_ROUNDS)
    thread.join()
else:
    def on_round():
        if len(children) < N_CHILDREN and numbers.random() < 0.1:
            children.append(fork(child))
    run_traffic(FOLDER, N_ROUNDS, on_round)
assert len(children) == N_CHILDREN
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.mark.parametrize("where", ["thread", "callback"])
def test_forks_at_any_moment_disturb_neither_side(monitor, where, tmp_path):
    """The children run loops of their own, with such traffic, too."""
    run_script(FORK + TRAFFIC + FORKS, monitor, arguments=[where, str(tmp_path)], seconds=300)


EXITS = """
import signal
FOLDER = sys.argv[1]

def until_round(n, end):
    count = 0
    def on_round():
        nonlocal count
        count += 1
        if count == n:
            end()
    folder = f"{FOLDER}/{os.getpid()}"
    os.mkdir(folder)
    run_traffic(folder, 20, on_round)

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

def leave():
    sys.exit(3)

def stop():
    threading.Thread(target=os._exit, args=(4,)).start()

EXPECTED = {kill: -signal.SIGKILL, leave: 3, stop: 4}
for end, expected in EXPECTED.items():
    for n in range(1, 60, 7):
        pid = os.fork()
        if not pid:
            try:
                until_round(n, end)
            except SystemExit as error:
                sys.stdout.flush()
                os._exit(error.code)  # as far as the interpreter's own end: see test_shutdown.py
            os._exit(1)
        deadline = time.monotonic() + 60
        while not (found := os.waitpid(pid, os.WNOHANG))[0]:
            assert time.monotonic() < deadline, (end, n)
            time.sleep(0.001)
        assert os.waitstatus_to_exitcode(found[1]) == expected, (end, n, found)
"""


def test_exits_with_everything_in_flight_end_the_process(monitor, tmp_path):
    run_script(FORK + TRAFFIC + EXITS, monitor, arguments=[str(tmp_path)], seconds=300)

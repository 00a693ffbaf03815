"""How a LoopGroup shares connections among its members."""

import asyncio
import os
import socket
import ssl
import sysconfig

import pytest
from support import group_functions as functions
from support.group_tools import ask, close, connect, counted, read
from support.helpers import client_tls, run_script


async def test_connections_are_shared_evenly_and_counted_until_they_end(new_group):
    async with new_group(3) as group:
        [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
        connections = []
        for number in (16, 17, 100):
            connections += [await connect(sock) for _ in range(number - len(connections))]
            answers = await asyncio.gather(*[ask(one, b"who") for one in connections])
            per_member = [answers.count(one) for one in set(answers)]
            assert len(per_member) == 3
            assert max(per_member) - min(per_member) <= 1
            found = [member.connections for member in (await group.statistics()).members]
            assert sorted(found) == sorted(per_member)
        for connection in connections:
            await close(connection)
        await counted(group, 0, 0, 0)
        assert (await group.statistics()).accepted == 100


async def test_connections_that_come_and_go_are_shared_evenly(new_group):
    async with new_group(2) as group:
        [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
        for _ in range(60):
            connection = await connect(sock)
            assert await ask(connection, b"hello") == b"hello"
            await close(connection)
            await counted(group, 0, 0)
        given = [member.connections_given for member in (await group.statistics()).members]
        assert given == [30, 30]


async def test_some_stay_while_others_come_and_go(new_group):
    async with new_group(2) as group:
        [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
        stay = [await connect(sock) for _ in range(5)]
        for one in stay:
            await ask(one, b"hello")
        await counted(group, 3, 2)
        for _ in range(10):
            connection = await connect(sock)
            await ask(connection, b"hello")
            await counted(group, 3, 3)
            await close(connection)
            await counted(group, 3, 2)
        for one in stay:
            await close(one)


async def test_servers_that_a_program_makes_itself_share_the_groups_sockets(new_group):
    async with new_group(2) as group:
        socks = await group.run(functions.echo_service, host=["127.0.0.1", "127.0.0.2"], port=0)
        assert len(socks) == 2
        connections = [await connect(sock) for sock in socks for _ in range(6)]
        assert set(await asyncio.gather(*[ask(one, b"hello") for one in connections])) == {b"hello"}
        await counted(group, 6, 6)
        for connection in connections:
            await close(connection)
        await counted(group, 0, 0)


async def test_a_unix_socket_is_shared_and_removed_at_the_end(new_group, tmp_path):
    path = str(tmp_path / "socket")
    async with new_group(2) as group:
        await group.serve(functions.Echo, path=path)
        connections = [await asyncio.open_unix_connection(path) for _ in range(4)]
        for connection in connections:
            assert await ask(connection, b"hello") == b"hello"
        await counted(group, 2, 2)
        await group.restart(0, 0)
        connections.append(await asyncio.open_unix_connection(path))
        assert await ask(connections[-1], b"hello") == b"hello"
        for connection in connections:
            await close(connection)
    assert not os.path.exists(path)


async def test_a_socket_that_the_program_made_is_shared(new_group):
    async with new_group(2) as group:
        sock = socket.socket()
        with pytest.raises(ValueError, match="together with sock"):
            await group.serve(functions.Echo, port=0, sock=sock)
        sock.bind(("127.0.0.1", 0))
        assert await group.serve(functions.Echo, sock=sock) == [sock]
        connections = [await connect(sock) for _ in range(2)]
        for connection in connections:
            assert await ask(connection, b"hello") == b"hello"
        await counted(group, 1, 1)
        for connection in connections:
            await close(connection)


async def test_tls_connections_are_counted_also_those_whose_handshake_fails(new_group):
    async with new_group(2) as group:
        [sock] = await group.serve(functions.Echo, "127.0.0.1", 0, ssl=functions.server_context)
        address = sock.getsockname()
        connections = [
            await asyncio.open_connection(*address, ssl=client_tls(), server_hostname="localhost")
            for _ in range(4)
        ]
        for connection in connections:
            assert await ask(connection, b"hello") == b"hello"
        await counted(group, 2, 2)
        plain = await connect(sock)
        plain[1].write(b"no handshake at all\r\n\r\n")
        assert await plain[0].read() != b"no handshake at all"
        await close(plain)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection(
                *address, ssl=ssl.create_default_context(), server_hostname="localhost"
            )
        await counted(group, 2, 2)
        for connection in connections:
            await close(connection)
        await counted(group, 0, 0)


@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)  # asyncio leaves the socket of a TLS connection so
@pytest.mark.parametrize("tls", [None, functions.server_context])
async def test_connections_that_get_no_protocol_are_not_counted(new_group, tls):
    async with new_group(2) as group:
        [sock] = await group.serve(functions.fails, "127.0.0.1", 0, ssl=tls)
        for _ in range(4):
            connection = await connect(sock)
            assert await connection[0].read() == b""
            await close(connection)
            await counted(group, 0, 0)
        assert [member.connections_given for member in (await group.statistics()).members] == [2, 2]


async def test_a_blocked_member_holds_up_only_what_it_has(new_group, pipe):
    async with new_group(2) as group:
        [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
        before = [await connect(sock) for _ in range(2)]
        for one in before:
            await ask(one, b"hello")
        until_reading, until_writing = os.pipe()
        blocked = group.submit(functions.block, pipe[1], until_reading, member=0)
        await read(pipe[0], 1)
        connections = [await connect(sock) for _ in range(10)]
        answers = await asyncio.gather(
            *[ask(one, b"hello") for one in connections]
        )  # 0.3 seconds: UL_STALL_NS
        assert set(answers) == {b"hello"}
        numbers = await group.statistics()
        assert [member.connections for member in numbers.members] == [1, 11]
        assert numbers.members[0].stalled
        assert numbers.members[0].connections_taken_back == 5
        connections.append(await connect(sock))
        assert await ask(connections[-1], b"hello") == b"hello"
        os.write(until_writing, b"1")
        await blocked
        while (numbers := await group.statistics()).members[0].stalled:
            await asyncio.sleep(0)
        connections.append(await connect(sock))
        assert await ask(connections[-1], b"hello") == b"hello"
        await counted(group, 2, 12)
        for connection in [*before, *connections]:
            await close(connection)
    os.close(until_reading)
    os.close(until_writing)


async def test_nothing_is_lost_while_members_are_replaced(new_group):
    async with new_group(2) as group:
        [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
        answers = []
        is_over = False

        async def client():
            while not is_over:
                connection = await connect(sock)
                answers.append(await ask(connection, b"hello"))
                await close(connection)

        clients = [asyncio.ensure_future(client()) for _ in range(8)]
        for number in range(6):
            await group.restart(number % 2)
        is_over = True
        await asyncio.gather(*clients)
        assert set(answers) == {b"hello"}
        assert (await group.statistics()).restarts == 6


async def test_connections_wait_while_no_member_serves(new_group):
    async with new_group(1) as group:
        [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
        first = await connect(sock)
        await ask(first, b"hello")
        restarted = asyncio.ensure_future(group.restart(0))
        while (await group.statistics()).members[0].state != "draining":
            await asyncio.sleep(0)
        await group.statistics()  # the member has begun to drain when it answers
        second = await connect(sock)
        answer = asyncio.ensure_future(ask(second, b"hello"))
        assert await ask(first, b"still here") == b"still here"  # until it ends
        assert not answer.done()
        await close(first)
        await restarted
        assert await answer == b"hello"
        await close(second)


async def test_stop_waits_for_connections_and_aborts_them_after_the_timeout(new_group):
    group = new_group(2)
    await group.start()
    [sock] = await group.serve(functions.Echo, "127.0.0.1", 0)
    address = sock.getsockname()
    connection = await connect(sock)
    await ask(connection, b"hello")
    stopped = asyncio.ensure_future(group.stop(0.1))
    assert await ask(connection, b"hello") == b"hello"
    await stopped
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    try:
        assert await connection[0].read() == b""
    except ConnectionResetError:
        pass
    await close(connection)


SHORT_OF_DESCRIPTORS = """
    import resource
    from support import group_functions
    from support.group_tools import ask, connect
    import uringloop

    async def main():
        async with uringloop.LoopGroup(2, kind=KIND, fdmon=MONITOR) as group:
            [sock] = await group.serve(group_functions.Echo, "127.0.0.1", 0)
            first = await connect(sock)
            await ask(first, b"hello")
            await group.statistics()  # imports what it needs
            client = socket.socket()
            client.setblocking(False)
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)
            highest = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (client.fileno() + 1, limit[1]))
            fillers = []
            try:
                while True:
                    fillers.append(os.dup(0))
            except OSError:
                pass
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, sock.getsockname())
            while (numbers := await group.statistics()).accept_errors == 0:
                await asyncio.sleep(0)
            assert numbers.last_accept_error == errno.EMFILE, numbers
            assert await ask(first, b"as before") == b"as before"
            for fd in fillers:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, limit)
            await loop.sock_sendall(client, b"late")
            assert await loop.sock_recv(client, 100) == b"late"
            client.close()
            first[1].close()
            print("served")

    import errno
    run(make_loop(MONITOR), main())
"""


@pytest.mark.slow
def test_accepting_goes_on_after_descriptors_ran_out(monitor, kind):
    """After a second, as in asyncio."""
    assert run_script(SHORT_OF_DESCRIPTORS.replace("KIND", repr(kind)), monitor) == "served\n"


SHORT_OF_MEMORY = """
    import resource
    from support import group_functions
    from support.group_tools import ask, close, connect
    import uringloop

    async def main():
        async with uringloop.LoopGroup(2, kind=KIND, fdmon=MONITOR) as group:
            [sock] = await group.serve(group_functions.Echo, "127.0.0.1", 0)
            clients = [await connect(sock) for _ in range(4)]
            for client in clients:  # the buffers of a loop are made for its first connection
                assert await ask(client, b"before") == b"before"
            has_taken, taken = os.pipe()
            released, release = os.pipe()
            with open("/proc/self/statm") as numbers:
                size = int(numbers.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (1 << 28), resource.RLIM_INFINITY))
            taking = group.submit(group_functions.take_all_memory, taken, released, member=0)
            await readable(has_taken)
            for _ in range(50):
                for client in clients:
                    assert await ask(client, b"meanwhile") == b"meanwhile"
                late = await connect(sock)
                assert await ask(late, b"late") == b"late"
                await close(late)
            assert not taking.done()
            os.write(release, b"1")
            try:
                await taking
            except MemoryError:
                print("served")
            assert await group.submit(group_functions.add, 1, member=0) == 1
            for client in clients:
                await close(client)

    async def readable(fd):
        loop = asyncio.get_running_loop()
        found = loop.create_future()
        loop.add_reader(fd, found.set_result, None)
        await found
        loop.remove_reader(fd)

    run(make_loop(MONITOR), main())
"""


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="the allocator of this Python has reserved a gigabyte of addresses, which no limit takes back",
)
def test_a_member_that_takes_all_memory_leaves_the_others_serving(monitor, kind):
    """But 4 MiB: a read takes up to 256 KiB, as in asyncio, and an interpreter gets its objects' memory by the MiB."""
    assert run_script(SHORT_OF_MEMORY.replace("KIND", repr(kind)), monitor) == "served\n"


FORKED = """
    from support import group_functions
    from support.group_tools import ask, close, connect
    import uringloop

    async def main():
        async with uringloop.LoopGroup(2, kind=KIND, fdmon=MONITOR) as group:
            [sock] = await group.serve(group_functions.Echo, "127.0.0.1", 0)
            first = await connect(sock)
            assert await ask(first, b"hello") == b"hello"
            pid = os.fork()
            if not pid:
                asyncio.events._set_running_loop(None)
                try:
                    group.submit(group_functions.add, 1)
                except RuntimeError as error:
                    assert "parent" in str(error)
                try:
                    group.wait().send(None)
                except RuntimeError as error:
                    assert "parent" in str(error)
                with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
                    runner.run(group.stop())
                del group
                gc.collect()
                os._exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            assert await ask(first, b"hello") == b"hello"
            second = await connect(sock)
            assert await ask(second, b"hello") == b"hello"
            await close(first)
            await close(second)
        print("served")

    import warnings
    warnings.simplefilter("ignore", DeprecationWarning)  # fork in a process with threads
    run(make_loop(MONITOR), main())
"""


def test_a_fork_child_leaves_the_group_alone(monitor):
    """With threads: Python itself crashes in a child of a process in which another interpreter runs (3.14)."""
    assert run_script(FORKED.replace("KIND", "'thread'"), monitor) == "served\n"

"""UNIX stream sockets: by path, abstract, by socket."""

import asyncio
import os
import socket
import sys

import pytest
from support.helpers import Recorder, open_transport, read_exactly, turns


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


async def echo_once(path):
    transport, protocol = await asyncio.get_running_loop().create_unix_connection(Recorder, path)
    transport.write(b"hello")
    assert await protocol.received(5) == b"hello"
    transport.close()
    await protocol.lost.wait()
    await turns(3)


async def test_echo_over_a_path(tmp_path):
    path = str(tmp_path / "echo")
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    await echo_once(path)
    server.close()
    await server.wait_closed()


async def test_path_objects_are_accepted(tmp_path):
    path = tmp_path / "echo"
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    await echo_once(path)
    server.close()
    await server.wait_closed()


async def test_abstract_names_are_accepted(tmp_path):
    name = "\0" + str(tmp_path / "abstract")
    server = await asyncio.get_running_loop().create_unix_server(Echo, name)
    await echo_once(name)
    server.close()
    await server.wait_closed()


async def test_a_bound_socket_is_accepted(tmp_path):
    path = str(tmp_path / "echo")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    server = await asyncio.get_running_loop().create_unix_server(Echo, sock=sock)
    await echo_once(path)
    server.close()
    await server.wait_closed()


async def test_a_stale_socket_file_is_replaced(tmp_path):
    path = str(tmp_path / "stale")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    await echo_once(path)
    server.close()
    await server.wait_closed()


async def test_a_regular_file_is_not_replaced(tmp_path):
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError):
        await asyncio.get_running_loop().create_unix_server(Echo, path)
    assert path.read_text() == "precious"


async def test_socket_file_is_removed_as_in_this_version_of_python(tmp_path):
    path = tmp_path / "echo"
    server = await asyncio.get_running_loop().create_unix_server(Echo, path)
    assert path.exists()
    server.close()
    await server.wait_closed()
    assert path.exists() == (sys.version_info < (3, 13))


@pytest.mark.skipif(sys.version_info < (3, 13), reason="cleanup_socket is new in Python 3.13")
async def test_cleanup_socket_leaves_another_servers_file_alone(tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "echo"
    kept = await loop.create_unix_server(Echo, tmp_path / "kept", cleanup_socket=False)
    first = await loop.create_unix_server(Echo, path)
    os.unlink(path)
    second = await loop.create_unix_server(Echo, path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()
    kept.close()
    assert (tmp_path / "kept").exists()


async def test_missing_path_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        await asyncio.get_running_loop().create_unix_connection(Recorder, str(tmp_path / "missing"))


async def test_path_without_listener_is_refused(tmp_path):
    path = str(tmp_path / "bound")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.get_running_loop().create_unix_connection(Recorder, path)


@pytest.mark.parametrize("method", ["create_unix_connection", "create_unix_server"])
async def test_path_and_socket_together_or_neither_are_refused(method, tmp_path):
    make = getattr(asyncio.get_running_loop(), method)
    with pytest.raises(ValueError):
        await make(Recorder)
    with socket.socket(socket.AF_UNIX) as sock:
        with pytest.raises(ValueError):
            await make(Recorder, str(tmp_path / "x"), sock=sock)
    with socket.socket() as sock:
        with pytest.raises(ValueError, match="UNIX"):
            await make(Recorder, sock=sock)


async def test_address_in_use_names_the_path(tmp_path):
    loop = asyncio.get_running_loop()
    path = tmp_path / "directory"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        await loop.create_unix_server(Recorder, path)


async def test_extra_info_of_a_unix_transport():
    async with open_transport(kind="unix") as (transport, _protocol, _peer):
        assert transport.get_extra_info("socket").family == socket.AF_UNIX
        assert transport.get_extra_info("sockname") == ""
        assert isinstance(transport, asyncio.Transport)


async def test_peer_credentials_are_available():
    async with open_transport(kind="unix") as (transport, _protocol, _peer):
        sock = transport.get_extra_info("socket")
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        assert int.from_bytes(credentials[:4], sys.byteorder) == os.getpid()


async def test_large_transfer_over_a_socketpair():
    async with open_transport(kind="unix") as (transport, _protocol, peer):
        data = os.urandom(1 << 20)
        transport.write(data)
        assert await read_exactly(peer, len(data)) == data

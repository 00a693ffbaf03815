"""URINGLOOP_RESTRICTED: rings may do what connections need, and nothing else."""

import pytest
from support.helpers import run_script

RESTRICTED = {"URINGLOOP_RESTRICTED": "1"}


@pytest.mark.parametrize("kind", ["tcp", "unix", "tls"])
def test_connections_work(kind, tmp_path):
    source = """
        KIND, PATH = sys.argv[1:]
        loop = make_loop("io_uring")

        async def echo(reader, writer):
            while data := await reader.read(100_000):
                writer.write(data)
                await writer.drain()
            writer.close()

        async def talk():
            server_kwargs, client_kwargs = {}, {}
            if KIND == "tls":
                server_kwargs["ssl"], client_kwargs["ssl"] = server_tls(), client_tls()
                client_kwargs["server_hostname"] = "localhost"
            if KIND == "unix":
                server = await asyncio.start_unix_server(echo, PATH)
                reader, writer = await asyncio.open_unix_connection(PATH)
            else:
                server = await asyncio.start_server(echo, "127.0.0.1", 0, **server_kwargs)
                address = server.sockets[0].getsockname()
                reader, writer = await asyncio.open_connection(*address, **client_kwargs)
            for n_bytes in (1, 1000, 1_000_000):
                writer.write(pattern(n_bytes))
                assert await reader.readexactly(n_bytes) == pattern(n_bytes)
            writer.close()
            await writer.wait_closed()
            server.close()
            await turns(5)

        run(loop, talk())
        run(loop, asyncio.to_thread(int))  # a wake-up by another thread
        run(loop, asyncio.sleep(0.001))
        loop.run_until_complete(loop.shutdown_default_executor())
        assert loop.statistics()["submitted"] > 5
        loop.close()
    """
    run_script(source, env=RESTRICTED, arguments=(kind, str(tmp_path / "socket")))


def test_raw_requests_are_refused_and_files_are_read_in_threads(tmp_path):
    source = """
        import uringloop
        from uringloop.liburing import lib
        loop = make_loop("io_uring")

        async def main():
            assert not loop.supports_sqe
            refused = [lambda: loop.add_sqe(lib.io_uring_prep_nop), lambda: loop.add_sqes([(lib.io_uring_prep_nop,)]),
                       lambda: loop.register_files(2), lambda: loop.register_buffers([bytearray(2)])]
            for request in refused:
                try:
                    request()
                except uringloop.SqeNotSupported as error:
                    assert "refused: URINGLOOP_RESTRICTED" in str(error), error
                else:
                    raise AssertionError("accepted")
            async with uringloop.open(sys.argv[1], "w+") as file:
                await file.write("text")
                await file.seek(0)
                assert await file.read() == "text"

        run(loop, main())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        context = uringloop.AioContext(fdmon="io_uring")
        try:
            context.add_sqe(lib.io_uring_prep_nop, callback=print)
        except uringloop.SqeNotSupported:
            pass
        else:
            raise AssertionError("accepted")
        context.close()
    """
    run_script(source, env=RESTRICTED, arguments=(str(tmp_path / "file"),))


@pytest.mark.parametrize("setting", ["1", "0", ""])
def test_the_kernel_refuses_what_connections_do_not_need(setting):
    source = """
        import errno
        from drivers.ring import RingDriver
        from uringloop.liburing import ffi, lib

        def filled(prep, *args):
            sqe = ffi.new("struct io_uring_sqe *")
            prep(sqe, *args)
            return bytes(ffi.buffer(sqe))

        path = ffi.new("char[]", b"/")
        fd = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        memory = ffi.new("char[]", 1)
        driver = RingDriver()
        driver.enable()
        others = [
            filled(lib.io_uring_prep_openat, -100, path, os.O_RDONLY | os.O_CLOEXEC, 0),
            filled(lib.io_uring_prep_read, fd, memory, 1, 0),
            filled(lib.io_uring_prep_write, fd, memory, 1, 0),
            filled(lib.io_uring_prep_socket, socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0, 0),
            filled(lib.io_uring_prep_unlink, ffi.new("char[]", b"/nowhere"), 0),
        ]
        for number, sqe in enumerate(others):
            driver.copy(sqe, number)
            driver.enter(1)
        driver.nop(99)
        driver.enter(1)
        results = {number: res for number, res, _ in driver.reap()}
        assert results.pop(99) == 0
        if sys.argv[1] == "1":
            assert set(results.values()) == {-errno.EACCES}, results
        else:
            assert -errno.EACCES not in results.values(), results
        driver.close()
    """
    run_script(source, env={"URINGLOOP_RESTRICTED": setting}, arguments=(setting,))

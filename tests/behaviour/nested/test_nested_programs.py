"""Synchronous libraries that run the loop themselves, called by asynchronous programs."""

import asyncio
import pathlib
import sys

import pytest
from support.helpers import run

import uringloop

EXAMPLES = pathlib.Path(__file__).parents[3] / "examples"


@pytest.fixture
def loop(new_loop):
    loop = new_loop()
    uringloop.allow_nested()
    yield loop
    uringloop.disallow_nested()


async def slow_double(number):
    await asyncio.sleep(0.001)
    return 2 * number


def doubles(count):
    """The synchronous library."""

    async def all_of_them():
        return await asyncio.gather(*(slow_double(number) for number in range(count)))

    return asyncio.run(all_of_them())


async def get(port, path):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    return int(head.split()[1]), body.decode()


async def ask_all(port, path):
    """Send some requests one by one, then many at once: handlers that run the loop inside each other."""
    for count in range(5):
        assert await get(port, path.format(count)) == (200, str([2 * number for number in range(count)]))
    answers = await asyncio.gather(*(get(port, path.format(count)) for count in range(20)))
    assert answers == [(200, str([2 * number for number in range(count)])) for count in range(20)]


def test_asyncio_run_in_an_aiohttp_handler(loop):
    web = pytest.importorskip("aiohttp.web")

    async def handler(request):
        me = asyncio.current_task()
        answer = doubles(int(request.match_info["count"]))
        assert asyncio.current_task() is me
        await asyncio.sleep(0)
        return web.Response(text=str(answer))

    async def main():
        app = web.Application()
        app.router.add_get("/{count}", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        await ask_all(site._server.sockets[0].getsockname()[1], "/{}")
        await runner.cleanup()

    run(loop, main())


def test_asyncio_run_in_a_starlette_handler(loop, monkeypatch):
    """The example of examples/, served by uvicorn."""
    uvicorn = pytest.importorskip("uvicorn")
    pytest.importorskip("starlette")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.delitem(sys.modules, "sync_library_app", raising=False)
    import sync_library_app

    class Server(uvicorn.Server):
        def install_signal_handlers(self):
            pass

    async def main():
        server = Server(uvicorn.Config(sync_library_app.app, port=0, log_level="error", lifespan="off"))
        serving = asyncio.ensure_future(server.serve())
        while not server.started:
            await asyncio.sleep(0.001)
        port = server.servers[0].sockets[0].getsockname()[1]
        answers = await asyncio.gather(*(get(port, f"/squares/{count}") for count in range(20)))
        for count, (status, body) in enumerate(answers):
            assert status == 200
            assert body.replace(",", ", ") == str([number * number for number in range(count)])
        server.should_exit = True
        await serving

    run(loop, main())

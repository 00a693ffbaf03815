"""A Starlette application that uses a synchronous library, which itself calls asyncio.run().

    python examples/sync_library_app.py [--port PORT]     # http://127.0.0.1:8080/squares/5

asyncio refuses `asyncio.run()` inside a running loop; uringloop.allow_nested() permits it.
"""

import argparse
import asyncio

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

import uringloop


class Library:
    """Has an asynchronous core hidden behind a synchronous interface."""

    async def _look_up(self, number):
        await asyncio.sleep(0.001)
        return number * number

    async def _look_up_all(self, numbers):
        return await asyncio.gather(*(self._look_up(number) for number in numbers))

    def squares(self, count):
        return asyncio.run(self._look_up_all(range(count)))


async def squares(request):
    return JSONResponse(Library().squares(int(request.path_params["count"])))


app = Starlette(routes=[Route("/squares/{count}", squares)])

if __name__ == "__main__":
    import uvicorn

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    uringloop.allow_nested()
    server = uvicorn.Server(uvicorn.Config(app, port=parser.parse_args().port, log_level="warning"))
    uringloop.run(server.serve())

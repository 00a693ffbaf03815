"""hypercorn's serve() within a program of one's own."""

import sys

from hypercorn.asyncio import serve
from hypercorn.config import Config
from serve_asgi import app

import uringloop

if __name__ == "__main__":
    config = Config()
    config.bind = [f"127.0.0.1:{sys.argv[1]}"]
    uringloop.run(serve(app, config))

"""uvicorn's Server within a program of one's own."""

import sys

import serve_asgi
from uvicorn import Config, Server

import uringloop

if __name__ == "__main__":
    config = Config(serve_asgi.app, port=int(sys.argv[1]))
    uringloop.run(Server(config).serve())

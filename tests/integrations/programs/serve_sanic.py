"""Sanic, in one process, on a loop that its module chooses."""

import sys

from serve_sanic_uvloop import app

import uringloop.adopt

uringloop.adopt.make_default()
app.config.USE_UVLOOP = False

if __name__ == "__main__":
    app.run("127.0.0.1", int(sys.argv[1]), single_process=True, motd=False)

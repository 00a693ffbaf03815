"""granian with a loop that is registered; each worker imports this module."""

import sys

import granian

import uringloop

granian.loops.register("auto")(uringloop.new_event_loop)

if __name__ == "__main__":
    granian.Granian("serve_asgi:app", port=int(sys.argv[1]), interface="asgi", loop="auto").serve()

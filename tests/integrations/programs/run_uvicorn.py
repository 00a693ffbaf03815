"""uvicorn.run() in a program."""

import sys

import uvicorn

if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run("serve_asgi:app", port=port, loop="uringloop:new_event_loop")

"""A chat room in the browser: everyone who has the page open sees what the others write, over WebSocket.

    python examples/chat_server.py [--port PORT]       # then open http://127.0.0.1:8080/ in two windows

One process serves some ten thousand people. A slow connection does not delay the others: each has a
queue of messages, and a connection that falls too far behind is closed. Needs aiohttp.
"""

import argparse
import asyncio
import contextlib
import signal

from aiohttp import WSMsgType, web

import uringloop

MOST_WAITING = 100
MOST_BYTES = 4096

PAGE = """<!doctype html><meta charset="utf-8"><title>Chat</title>
<style>body { font: 16px sans-serif; max-width: 40em; margin: 2em auto } input { font: inherit; width: 100% }</style>
<h1>Chat</h1><div id="said"></div><form><input placeholder="Write, then press Enter" autofocus></form>
<script>
const socket = new WebSocket(location.href.replace(/^http/, "ws") + "ws"), input = document.querySelector("input");
const show = text => document.querySelector("#said").append(text, document.createElement("br"));
socket.onmessage = event => show(event.data);
socket.onclose = () => show("(disconnected)");
document.querySelector("form").onsubmit = event => {
    event.preventDefault();
    socket.send(input.value);
    input.value = "";
};
</script>
"""


class Room:
    """The people in the room, by number, each with the messages that wait for their connection."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Queue[str | None]] = {}
        self.n_people = 0

    def say(self, text: str) -> None:
        for person, queue in list(self.waiting.items()):
            if queue.qsize() < MOST_WAITING:
                queue.put_nowait(text)
            else:
                del self.waiting[person]
                queue.put_nowait(None)

    async def join(self, request: web.Request) -> web.WebSocketResponse:
        """One connection, from its first message to its last."""
        socket = web.WebSocketResponse(heartbeat=30, max_msg_size=MOST_BYTES)
        await socket.prepare(request)
        self.n_people += 1
        person, queue = self.n_people, asyncio.Queue()
        self.waiting[person] = queue
        sending = asyncio.create_task(send_all(socket, queue))
        self.say(f"{person} has come, {len(self.waiting)} here")
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self.say(f"{person}: {message.data}")
        finally:
            sending.cancel()
            if self.waiting.pop(person, None):
                self.say(f"{person} has left")
        return socket


async def send_all(socket: web.WebSocketResponse, queue: asyncio.Queue[str | None]) -> None:
    with contextlib.suppress(ConnectionError):
        while (text := await queue.get()) is not None:
            await socket.send_str(text)
        await socket.close(message=b"too slow")


async def page(request: web.Request) -> web.Response:
    return web.Response(text=PAGE, content_type="text/html")


async def main(port: int) -> None:
    loop = asyncio.get_running_loop()
    ending = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ending.set)
    app = web.Application()
    app.add_routes([web.get("/", page), web.get("/ws", Room().join)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("http://{}:{}/ on {} (Ctrl-C ends)".format(*runner.addresses[0], loop.fdmon), flush=True)
    await ending.wait()
    await runner.cleanup()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=8080, help="0: any free one; default: %(default)s")
    uringloop.run(main(parser.parse_args().port))

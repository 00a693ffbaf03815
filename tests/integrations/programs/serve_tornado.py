"""tornado: the whole server, or only its application for gunicorn."""

import asyncio
import signal
import sys

import tornado.web
import tornado.websocket
from inside import CHUNKS, check_loop

import uringloop


class ShowLoop(tornado.web.RequestHandler):
    async def get(self):
        self.write(check_loop())


class Echo(tornado.web.RequestHandler):
    async def post(self):
        self.write(self.request.body)


class Stream(tornado.web.RequestHandler):
    async def get(self):
        for chunk in CHUNKS:
            self.write(chunk)
            await self.flush()


class EchoMessages(tornado.websocket.WebSocketHandler):
    def open(self):
        check_loop()

    def on_message(self, message):
        return self.write_message(message, binary=isinstance(message, bytes))


app = tornado.web.Application(
    [("/loop", ShowLoop), ("/echo", Echo), ("/stream", Stream), ("/ws", EchoMessages)],
)


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = app.listen(int(sys.argv[1]), "127.0.0.1")
    await stop.wait()
    server.stop()
    await server.close_all_connections()


if __name__ == "__main__":
    uringloop.run(main())

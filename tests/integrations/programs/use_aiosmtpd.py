"""aiosmtpd: a server on the loop, messages from smtplib in threads."""

import asyncio
import smtplib

from aiosmtpd.smtp import SMTP
from inside import check_loop

import uringloop


class Handler:
    def __init__(self):
        self.received = []

    async def handle_DATA(self, server, session, envelope):
        check_loop()
        self.received.append(envelope.content)
        return "250 OK"


def send(port, number):
    with smtplib.SMTP("127.0.0.1", port) as client:
        lines = f"line {number}\r\n" * 20_000
        client.sendmail("a@example.org", ["b@example.org"], f"Subject: {number}\r\n\r\n{lines}")


async def main():
    handler = Handler()
    factory = lambda: SMTP(handler, hostname="localhost")  # noqa: E731
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    await asyncio.gather(*(asyncio.to_thread(send, port, number) for number in range(4)))
    server.close()
    wanted = [
        f"Subject: {number}\r\n\r\n".encode() + f"line {number}\r\n".encode() * 20_000 for number in range(4)
    ]
    assert sorted(handler.received) == wanted


uringloop.run(main())

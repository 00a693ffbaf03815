"""aiosmtpd: a server that accepts messages and drops them."""

import asyncio

from aiosmtpd.smtp import SMTP


class Sink:
    async def handle_DATA(self, server, session, envelope):
        return "250 OK"


async def main(sock):
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Sink(), hostname="localhost", loop=loop), sock=sock)
    await server.serve_forever()


def run(sock, make_loop):
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main(sock))

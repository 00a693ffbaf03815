"""asyncssh: a server, a command with large input and output, a forwarded port."""

import asyncio

import asyncssh
from inside import blob, check_loop

import uringloop


class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False

    def connection_requested(self, host, port, *origin):
        return True


async def command(process):
    check_loop()
    data = await process.stdin.read()
    process.stdout.write(data)
    process.exit(0)


async def echo(reader, writer):
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


async def main():
    check_loop()
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.create_server(
        Server, "127.0.0.1", 0, server_host_keys=[key], process_factory=command, encoding=None
    )
    port = server.sockets[0].getsockname()[1]
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as target:
        options = {"known_hosts": None, "username": "someone", "config": None, "client_keys": None}
        async with asyncssh.connect("127.0.0.1", port, **options) as client:

            async def run(size):
                return (await client.run("cat", input=blob(size), encoding=None)).stdout

            sizes = [1, 1_000, 70_000, 900_000]
            assert await asyncio.gather(*map(run, sizes)) == [blob(size) for size in sizes]
            forwarded = await client.forward_local_port("127.0.0.1", 0, *target.sockets[0].getsockname())
            reader, writer = await asyncio.open_connection("127.0.0.1", forwarded.get_port())
            writer.write(blob(300_000))
            writer.write_eof()
            assert await reader.read() == blob(300_000)
            writer.close()
            await writer.wait_closed()
            forwarded.close()
    server.close()
    await server.wait_closed()


uringloop.run(main())

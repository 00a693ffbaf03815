"""grpc.aio: a server of one method. It makes its own socket for the port."""

import asyncio

import grpc


async def greet(request, context):
    return b'{"message": "Hello, %s!"}' % request


async def main(port):
    server = grpc.aio.server()
    handlers = {"Greet": grpc.unary_unary_rpc_method_handler(greet)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("Greeter", handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def run(sock, make_loop):
    port = sock.getsockname()[1]
    sock.close()
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main(port))

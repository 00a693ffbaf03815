"""Clients of another server on the loop, for each request to `/httpx`, `/redis` or `/grpc`: ASGI, without a framework.

The environment says where that server is (upstream.py). Each client is made at the first request, as its documents
show, and answers with what the upstream server has: the greeting as JSON.
"""

import os

clients = {}


def httpx_client():
    import httpx

    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{os.environ['UPSTREAM_PORT']}", trust_env=False)

    async def fetch():
        return (await client.get("/json")).content

    return fetch


def redis_client():
    import redis.asyncio

    client = redis.asyncio.Redis(unix_socket_path=os.environ["UPSTREAM_PATH"])

    async def fetch():
        return await client.get("greeting")

    return fetch


def grpc_client():
    import grpc

    channel = grpc.aio.insecure_channel(f"127.0.0.1:{os.environ['UPSTREAM_PORT']}")
    call = channel.unary_unary("/Greeter/Greet")

    async def fetch():
        return await call(b"World")

    return fetch


MAKE = {"/httpx": httpx_client, "/redis": redis_client, "/grpc": grpc_client}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path not in clients:
        clients[path] = MAKE[path]()
    body = await clients[path]()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

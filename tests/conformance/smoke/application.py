"""The ASGI application that the servers serve; /loop returns the class of its loop."""

import asyncio


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    if scope["path"] == "/loop":
        kind = type(asyncio.get_running_loop())
        body = f"{kind.__module__}.{kind.__qualname__}".encode()
    elif scope["path"] == "/big":
        body = b"x" * (4 << 20)
    headers = [(b"content-length", str(len(body or b"hello")).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body or b"hello"})

"""discord.py's client against a gateway on the loopback: it logs in, becomes ready, and receives messages."""

import asyncio
import json

import discord
from aiohttp import web
from inside import check_loop

import uringloop

USER = {"id": "1", "username": "bot", "discriminator": "0", "avatar": None, "bot": True, "global_name": None}
APPLICATION = {
    "id": "1",
    "name": "test",
    "description": "",
    "icon": None,
    "bot_public": False,
    "bot_require_code_grant": False,
    "owner": USER,
    "verify_key": "",
    "flags": 0,
}
TEXTS = [f"message {number} " * 50 for number in range(50)]


def message(number):
    return {
        "id": str(1000 + number),
        "channel_id": "7",
        "author": {**USER, "id": "2", "username": "person"},
        "content": TEXTS[number],
        "timestamp": "2024-01-01T00:00:00+00:00",
        "edited_timestamp": None,
        "tts": False,
        "mention_everyone": False,
        "mentions": [],
        "mention_roles": [],
        "attachments": [],
        "embeds": [],
        "pinned": False,
        "type": 0,
    }


async def gateway(request):
    check_loop()
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    await socket.send_json({"op": 10, "d": {"heartbeat_interval": 40000}, "s": None, "t": None})
    async for received in socket:
        operation = json.loads(received.data)["op"]
        if operation == 1:
            await socket.send_json({"op": 11, "d": None, "s": None, "t": None})
        elif operation == 2:
            ready = {
                "v": 10,
                "user": USER,
                "guilds": [],
                "session_id": "s",
                "resume_gateway_url": str(request.url.with_scheme("ws").with_query("")),
                "application": {"id": "1", "flags": 0},
            }
            await socket.send_json({"op": 0, "s": 1, "t": "READY", "d": ready})
            for number in range(len(TEXTS)):
                await socket.send_json(
                    {"op": 0, "s": 2 + number, "t": "MESSAGE_CREATE", "d": message(number)}
                )
    return socket


def answer(value):
    """The client wants this content type without a charset."""

    async def handler(request):
        return web.Response(body=json.dumps(value).encode(), content_type="application/json")

    return handler


async def start_server():
    app = web.Application()
    app.router.add_get("/api/v10/users/@me", answer(USER))
    app.router.add_get("/api/v10/oauth2/applications/@me", answer(APPLICATION))
    app.router.add_get("/api/v10/gateway/bot", answer({"url": "x", "shards": 1}))
    app.router.add_get("/", gateway)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, runner.addresses[0][1]


class Client(discord.Client):
    async def on_message(self, received):
        texts.append(received.content)
        if len(texts) == len(TEXTS):
            await self.close()


texts = []


async def main():
    check_loop()
    runner, port = await start_server()
    discord.http.Route.BASE = f"http://127.0.0.1:{port}/api/v10"
    discord.gateway.DiscordWebSocket.DEFAULT_GATEWAY = discord.gateway.yarl.URL(f"ws://127.0.0.1:{port}/")
    intents = discord.Intents.default()
    intents.message_content = True
    async with Client(intents=intents) as client:
        await client.start("token")
    await runner.cleanup()
    assert sorted(texts) == sorted(TEXTS)


async def bounded():
    await asyncio.wait_for(main(), 30)


uringloop.run(bounded())

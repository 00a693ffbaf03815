"""aiohttp's server: a route that answers JSON."""

from aiohttp import web


async def greet(request):
    return web.json_response({"message": "Hello, World!"})


def run(sock, make_loop):
    app = web.Application()
    app.router.add_get("/json", greet)
    web.run_app(app, sock=sock, loop=make_loop(), access_log=None, print=None)

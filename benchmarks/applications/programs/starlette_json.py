"""Starlette: a route that answers JSON."""

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def greet(request):
    return JSONResponse({"message": "Hello, World!"})


app = Starlette(routes=[Route("/json", greet)])

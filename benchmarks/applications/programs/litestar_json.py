"""Litestar: a route that answers JSON."""

from litestar import Litestar, get


@get("/json")
async def greet() -> dict[str, str]:
    return {"message": "Hello, World!"}


app = Litestar([greet])

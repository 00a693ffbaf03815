"""The ASGI application, with the loop installed by its module, for servers that make their loop after importing it."""

# isort: off
import uringloop.adopt

uringloop.adopt.make_default()

from serve_asgi import app as app  # noqa: E402

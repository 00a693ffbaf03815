"""An extension of jupyter_server with the URLs of the other servers' applications."""

from inside import check_loop
from jupyter_server.base.handlers import JupyterHandler
from serve_tornado import Echo, EchoMessages, Stream


class ShowLoop(JupyterHandler):
    async def get(self):
        self.write(check_loop())


class Bare(Echo):
    def check_xsrf_cookie(self):
        """The client has no cookies."""


def _jupyter_server_extension_points():
    return [{"module": "extension_of_jupyter"}]


def _load_jupyter_server_extension(server):
    server.web_app.add_handlers(
        ".*", [("/loop", ShowLoop), ("/echo", Bare), ("/stream", Stream), ("/ws", EchoMessages)]
    )

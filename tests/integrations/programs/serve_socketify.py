"""socketify, whose sockets are libuv's in C: only handlers run on the loop."""

import sys

from inside import check_loop
from socketify import App, AppListenOptions

import uringloop.adopt

uringloop.adopt.make_default()
app = App()


async def show_loop(response, request):
    response.end(check_loop())


async def echo(response, request):
    data = await response.get_data()
    response.end(data.getvalue() if data else b"")


app.get("/loop", show_loop)
app.post("/echo", echo)
app.listen(AppListenOptions(port=int(sys.argv[1]), host="127.0.0.1"))
app.run()

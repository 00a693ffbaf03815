"""Twisted's asyncio reactor on a loop that the program makes: HTTP echo, a streamed answer."""

import asyncio
import json
import sys

from inside import CHUNKS, check_loop
from twisted.internet import asyncioreactor

import uringloop

loop = uringloop.new_event_loop()
asyncio.set_event_loop(loop)
asyncioreactor.install(loop)

from twisted.internet import defer, reactor, task  # noqa: E402
from twisted.web import resource, server  # noqa: E402


class ShowLoop(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        request.setHeader(b"content-type", b"application/json")
        return json.dumps(check_loop()).encode()


class Echo(resource.Resource):
    isLeaf = True

    def render_POST(self, request):
        return request.content.read()


class Stream(resource.Resource):
    isLeaf = True

    def render_GET(self, request):
        defer.Deferred.fromCoroutine(self.stream(request))
        return server.NOT_DONE_YET

    async def stream(self, request):
        for chunk in CHUNKS:
            request.write(chunk)
            await task.deferLater(reactor, 0)
        request.finish()


root = resource.Resource()
for name, page in {b"loop": ShowLoop(), b"echo": Echo(), b"stream": Stream()}.items():
    root.putChild(name, page)
reactor.listenTCP(int(sys.argv[1]), server.Site(root), interface="127.0.0.1")
reactor.run()

"""Django Channels: a WebSocket consumer and group messages in one file, with Django's views for HTTP."""

import serve_django
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path
from inside import check_loop


class Echo(AsyncWebsocketConsumer):
    async def connect(self):
        check_loop()
        await self.accept()

    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data=text_data, bytes_data=bytes_data)


app = ProtocolTypeRouter(
    {"http": serve_django.app, "websocket": URLRouter([path("ws", Echo.as_asgi())])},
)

import socket
from asyncio import trsock

class TransportSocket(trsock.TransportSocket):
    def __init__(self, sock: socket.socket, transport: object) -> None: ...

"""Servers: serving, closing, connections that come and go, sockets that are given; and connections that fail."""

import asyncio
import contextlib
import os
import socket
import struct
import tempfile

from hypothesis import strategies as st

from .comparing import Machine

NUMBERS = st.integers(0, 3)
N_CLIENTS = 8

LEAVES = st.one_of(
    st.tuples(
        st.sampled_from(["start", "close_server", "state", "serve_forever", "wait_closed", "cancel_serving"])
    ),
    st.tuples(st.sampled_from(["close_clients", "abort_clients", "state"])),
    st.tuples(st.sampled_from(["close", "abort", "write", "write_eof"]), NUMBERS),
)
SCRIPTS = st.tuples(
    st.just("script"),
    st.sampled_from(["factory", "connection_made", "data_received", "eof_received", "connection_lost"]),
    st.lists(st.one_of(LEAVES, st.tuples(st.just("raise"))), min_size=1, max_size=3),
)
GROUPS = st.tuples(st.just("do"), st.lists(st.one_of(LEAVES, LEAVES, SCRIPTS), min_size=1, max_size=3))
FAR = st.one_of(
    st.tuples(st.just("connect"), st.integers(1, 3)),
    st.tuples(st.just("connect"), st.integers(1, 2)),
    st.tuples(st.sampled_from(["far_send", "far_read", "far_shutdown", "far_close", "far_reset"]), NUMBERS),
    st.tuples(
        st.just("refused"),
        st.sampled_from(
            ["port", "path", "none", "both", "ssl_name", "sock_datagram", "timeout", "no_host", "local"]
        ),
    ),
)
OPTIONS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["unix", "tcp"]),
        "is_given": st.booleans(),
        "starts": st.booleans(),
        "keep_open": st.booleans(),
        "backlog": st.sampled_from([N_CLIENTS, 100]),
    }
)
PROGRAMS = st.tuples(OPTIONS, st.lists(st.one_of(GROUPS, FAR, FAR), min_size=4, max_size=18))


class OnPurpose(Exception):
    pass


class Accepted(asyncio.Protocol):
    def __init__(self, machine, number):
        self.machine = machine
        self.number = number
        self.data = bytearray()

    def called(self, method, *arguments):
        self.machine.show(f"server's {self.number}: {method}", *arguments)
        self.machine.scripted(method)

    def connection_made(self, transport):
        self.machine.transports.append(transport)
        self.called("connection_made")

    def data_received(self, data):
        self.called("data_received", data)

    def eof_received(self):
        self.called("eof_received")
        return self.machine.options["keep_open"]

    def connection_lost(self, error):
        self.called("connection_lost", error)


class Interpreter:
    def __init__(self, world, options):
        self.world = world
        self.loop = world.loop
        self.options = options
        self.scripts = {}
        self.transports = []
        self.clients = []
        self.tasks = []
        self.n_accepted = 0
        self.server = None
        self.listener = None
        self.is_unordered = False  # what remains of this step

    def show(self, *parts):
        self.world.add(*parts)

    def scripted(self, method):
        if not self.is_unordered:
            self.do_all(self.scripts.pop(method, ()))

    def do_all(self, actions):
        for action in actions:
            getattr(self, "do_" + action[0])(*action[1:])

    def factory(self):
        self.n_accepted += 1
        protocol = Accepted(self, self.n_accepted)
        self.show("factory", self.n_accepted)
        # when the factory closes the server, an assertion fails in asyncio, and the connection is dropped
        self.do_all([action for action in self.scripts.pop("factory", ()) if action[0] != "close_server"])
        return protocol

    def setup(self):
        options = self.options
        folder = self.world.closing.enter_context(tempfile.TemporaryDirectory())
        self.path = os.path.join(folder, "socket")
        keywords = {"start_serving": options["starts"], "backlog": options["backlog"]}
        if options["kind"] == "tcp":
            address = ("127.0.0.1", 0)
            create = self.loop.create_server
            where = {"host": address[0], "port": 0}
        else:
            address = self.path
            create = self.loop.create_unix_server
            where = {"path": self.path}
        if options["is_given"]:
            family = socket.AF_INET if options["kind"] == "tcp" else socket.AF_UNIX
            self.listener = self.world.closing.enter_context(socket.socket(family))
            self.listener.bind(address)
            where = {"sock": self.listener}
        self.server = self.loop.run_until_complete(create(self.factory, **where, **keywords))
        self.address = self.server.sockets[0].getsockname()
        self.do_state()

    def start(self, what, coroutine):
        label = f"#{len(self.tasks)} {what}"
        task = self.loop.create_task(coroutine)
        self.tasks.append(task)

        def finished(task):
            if task.cancelled():
                self.show(label, "is cancelled")
            elif task.exception() is not None:
                self.show(label, "raises", task.exception())
            else:
                self.show(label, "returns", task.result())

        task.add_done_callback(finished)

    # The server

    def do_start(self):
        self.start("start_serving", self.server.start_serving())

    def do_serve_forever(self):
        self.start("serve_forever", self.server.serve_forever())

    def do_cancel_serving(self):
        for task in self.tasks:
            task.cancel()

    def do_close_server(self):
        self.world.attempt("close_server", self.server.close)

    def do_wait_closed(self):
        self.start("wait_closed", self.server.wait_closed())

    # The server keeps its connections in a set: in which order they are closed is not specified.

    def do_close_clients(self):
        if hasattr(self.server, "close_clients"):
            self.is_unordered = True
            self.world.attempt("close_clients", self.server.close_clients)

    def do_abort_clients(self):
        if hasattr(self.server, "abort_clients"):
            self.is_unordered = True
            self.world.attempt("abort_clients", self.server.abort_clients)

    def do_state(self):
        server = self.server
        self.show("server", server.is_serving(), len(server.sockets), server.get_loop() is self.loop)

    def do_raise(self):
        raise OnPurpose("on purpose")

    def do_script(self, method, actions):
        self.scripts[method] = actions

    # Its connections

    def transport(self, number):
        return self.transports[number % len(self.transports)] if self.transports else None

    def on_transport(self, name, number, *arguments):
        transport = self.transport(number)
        if transport is not None and not transport.is_closing():
            self.world.attempt(
                f"{name} {number % len(self.transports)}", getattr(transport, name), *arguments
            )

    def do_close(self, number):
        self.on_transport("close", number)

    def do_abort(self, number):
        self.on_transport("abort", number)

    def do_write(self, number):
        self.on_transport("write", number, b"from the server")

    def do_write_eof(self, number):
        self.on_transport("write_eof", number)

    # Clients

    def connect(self, count):
        """One after the other: the order in which the kernel accepts them is known.

        How the calls for several new connections are mixed is not; a script would see that.
        """
        first_line = len(self.world.lines)
        for _ in range(1 if self.scripts else count):
            if len(self.clients) >= N_CLIENTS:
                break
            family = socket.AF_INET if self.options["kind"] == "tcp" else socket.AF_UNIX
            client = self.world.closing.enter_context(socket.socket(family))
            try:
                client.connect(self.address)
            except OSError as error:
                self.show("connect raises", type(error).__name__)
            else:
                client.setblocking(False)
                self.clients.append(client)
        self.world.settle()
        self.world.lines[first_line:] = sorted(self.world.lines[first_line:])

    def client(self, number):
        return self.clients[number % len(self.clients)] if self.clients else None

    def far_send(self, number):
        client = self.client(number)
        if client is not None:
            try:
                client.send(b"from a client")
            except OSError as error:
                self.show("far_send raises", type(error).__name__)

    def far_read(self, number):
        client = self.client(number)
        if client is not None:
            try:
                self.show("far_read", client.recv(1000))
            except OSError as error:
                self.show("far_read raises", type(error).__name__)

    def far_shutdown(self, number):
        client = self.client(number)
        if client is not None:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def far_close(self, number):
        client = self.client(number)
        if client is not None:
            client.close()

    def far_reset(self, number):
        client = self.client(number)
        if client is not None and client.fileno() >= 0:
            if self.options["kind"] == "tcp":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()

    def refused(self, what):
        """Connections and servers that cannot be made."""
        loop, factory = self.loop, asyncio.Protocol
        with socket.socket() as bound, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
            makers = {
                "port": lambda: loop.create_connection(factory, "127.0.0.1", port),
                "path": lambda: loop.create_unix_connection(factory, self.path + "-missing"),
                "none": lambda: loop.create_connection(factory),
                "both": lambda: loop.create_connection(factory, "127.0.0.1", port, sock=bound),
                "ssl_name": lambda: loop.create_connection(factory, "127.0.0.1", port, server_hostname="x"),
                "sock_datagram": lambda: loop.create_connection(factory, sock=datagrams),
                "timeout": lambda: loop.create_connection(
                    factory, "127.0.0.1", port, ssl_handshake_timeout=1
                ),
                "no_host": lambda: loop.create_server(factory, sock=datagrams),
                "local": lambda: loop.create_connection(
                    factory, "127.0.0.1", port, local_addr=("127.0.0.1", port)
                ),
            }
            try:
                made = loop.run_until_complete(makers[what]())
            except Exception as error:
                self.show("refused", error)
            else:
                self.show("not refused", type(made).__name__)


class ServersMachine(Machine):
    name = "servers"
    programs = PROGRAMS

    def run(self, world, program):
        options, steps = program
        interpreter = Interpreter(world, options)
        world.keep.append(interpreter)
        interpreter.setup()
        for step in steps:
            world.add(f"- {step[0]}")
            first_line = len(world.lines)
            if step[0] == "do":
                world.loop.call_soon(interpreter.do_all, step[1])
            else:
                getattr(interpreter, step[0])(*step[1:])
            world.settle()
            if interpreter.is_unordered:
                interpreter.is_unordered = False
                world.lines[first_line:] = sorted(world.lines[first_line:])
        for number in range(len(interpreter.clients)):
            interpreter.far_read(number)
        interpreter.do_close_server()
        for transport in interpreter.transports:
            transport.abort()
        world.settle()
        interpreter.do_state()


MACHINE = ServersMachine()

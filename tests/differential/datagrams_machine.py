"""Datagram endpoints, UDP and UNIX, connected and not, and plain sockets as their peers."""

import asyncio
import contextlib
import os
import socket
import tempfile

from hypothesis import strategies as st

from .comparing import Machine

SIZES = st.sampled_from([0, 1, 10, 1000, 9000, 70_000])
ADDRESSES = st.sampled_from([None, None, "peer", "peer", "other", "dead", "text", "short", "host"])

LEAVES = st.one_of(
    st.tuples(st.just("send"), SIZES, ADDRESSES),
    st.tuples(st.just("send"), SIZES, ADDRESSES),
    st.tuples(st.just("send"), SIZES, ADDRESSES),
    st.tuples(st.just("send_wrong"), st.sampled_from(["str", "none", "int", "view", "array"])),
    st.tuples(st.sampled_from(["close", "abort", "state", "info", "state", "info"])),
    st.tuples(st.just("limits"), st.sampled_from([None, 0, 1000]), st.sampled_from([None, 0, 2000])),
    st.tuples(st.just("protocol")),
)
SCRIPTS = st.tuples(
    st.just("script"),
    st.sampled_from(["connection_made", "datagram_received", "error_received", "connection_lost"]),
    st.lists(st.one_of(LEAVES, LEAVES, st.tuples(st.just("raise"))), min_size=1, max_size=3),
)
GROUPS = st.tuples(st.just("do"), st.lists(st.one_of(LEAVES, LEAVES, SCRIPTS), min_size=1, max_size=4))
FAR = st.one_of(
    st.tuples(st.just("far_send"), st.lists(st.sampled_from([0, 1, 10, 1000]), min_size=1, max_size=3)),
    st.tuples(st.sampled_from(["far_read", "far_read", "far_read", "far_close"])),
    st.tuples(
        st.just("refused"), st.sampled_from(["none", "both", "path", "family", "stream", "remote", "in_use"])
    ),
)
OPTIONS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["udp", "udp", "unix"]),
        "is_connected": st.booleans(),
        "is_given": st.booleans(),
        "debug": st.booleans(),
    }
)
PROGRAMS = st.tuples(
    OPTIONS, SCRIPTS | st.none(), st.lists(st.one_of(GROUPS, GROUPS, FAR), min_size=4, max_size=18)
)


class OnPurpose(Exception):
    pass


class Endpoint(asyncio.DatagramProtocol):
    def __init__(self, machine, name):
        self.machine = machine
        self.name = name

    def called(self, method, *arguments):
        self.machine.world.add(self.name, method, *arguments)
        self.machine.do_all(self.machine.scripts.pop(method, ()))

    def connection_made(self, transport):
        self.machine.transport = transport
        self.called("connection_made")

    def datagram_received(self, data, address):
        self.called("datagram_received", data, self.machine.named(address))

    def error_received(self, error):
        self.called("error_received", error)

    def pause_writing(self):
        self.called("pause_writing")

    def resume_writing(self):
        self.called("resume_writing")

    def connection_lost(self, error):
        self.machine.is_lost = True
        self.called("connection_lost", error)


class Interpreter:
    def __init__(self, world, options):
        self.world = world
        self.loop = world.loop
        self.options = options
        self.loop.set_debug(options["debug"])
        self.loop.slow_callback_duration = 1e9
        self.scripts = {}
        self.n_protocols = 0
        self.n_sent = 0
        self.transport = None
        self.is_lost = False
        self.folder = world.closing.enter_context(tempfile.TemporaryDirectory())
        self.sockets = {name: self.bound(name) for name in ("near", "peer", "other", "dead")}
        self.addresses = {name: sock.getsockname() for name, sock in self.sockets.items()}
        self.sockets.pop("dead").close()

    def bound(self, name):
        is_udp = self.options["kind"] == "udp"
        sock = socket.socket(socket.AF_INET if is_udp else socket.AF_UNIX, socket.SOCK_DGRAM)
        self.world.closing.callback(sock.close)
        sock.bind(("127.0.0.1", 0) if is_udp else os.path.join(self.folder, name))
        sock.setblocking(False)
        return sock

    def named(self, address):
        for name, known in self.addresses.items():
            if known == address:
                return name
        return address

    def new_protocol(self):
        self.n_protocols += 1
        return Endpoint(self, f"protocol{self.n_protocols}")

    def connect(self):
        options, near = self.options, self.sockets["near"]
        if options["is_given"]:
            if options["is_connected"]:
                near.connect(self.addresses["peer"])
            where = {"sock": near}
        else:
            near.close()
            if options["kind"] == "unix":
                os.unlink(self.addresses["near"])
            where = {
                "local_addr": self.addresses["near"],
                "remote_addr": self.addresses["peer"] if options["is_connected"] else None,
                "family": socket.AF_INET if options["kind"] == "udp" else socket.AF_UNIX,
            }
        try:
            self.loop.run_until_complete(self.loop.create_datagram_endpoint(self.new_protocol, **where))
        except Exception as error:
            self.world.add("not connected", error)

    def do_all(self, actions):
        for action in actions:
            if not self.is_lost or action[0] in ("state", "raise", "script"):
                getattr(self, "do_" + action[0])(*action[1:])

    def do_send(self, size, address):
        self.n_sent += 1
        data = bytes([self.n_sent % 256]) * size
        known = {
            "text": "text",
            "short": ("127.0.0.1",),
            "host": ("127.0.0.1", "x"),
            **self.addresses,
        }
        self.world.attempt("sendto", self.transport.sendto, data, known.get(address))

    def do_send_wrong(self, kind):
        value = {
            "str": "text",
            "none": None,
            "int": 5,
            "view": memoryview(b"view"),
            "array": bytearray(b"array"),
        }[kind]
        self.world.attempt("sendto", self.transport.sendto, value)

    def do_close(self):
        self.world.attempt("close", self.transport.close)

    def do_abort(self):
        self.world.attempt("abort", self.transport.abort)

    def do_state(self):
        transport = self.transport
        size = None if self.is_lost else transport.get_write_buffer_size()
        self.world.add("state", transport.is_closing(), size)

    def do_info(self):
        info = self.transport.get_extra_info
        names = self.named(info("sockname")), self.named(info("peername"))
        self.world.add("info", type(info("socket")).__name__, names, info("none", 1))

    def do_limits(self, high, low):
        self.world.attempt("limits", self.transport.set_write_buffer_limits, high, low)

    def do_protocol(self):
        self.world.attempt("set_protocol", self.transport.set_protocol, self.new_protocol())

    def do_raise(self):
        raise OnPurpose("on purpose")

    def do_script(self, method, actions):
        self.scripts[method] = actions

    # The others

    def far_send(self, sizes):
        for size in sizes:
            self.n_sent += 1
            try:
                self.sockets["peer"].sendto(bytes([self.n_sent % 256]) * size, self.addresses["near"])
            except OSError as error:
                self.world.add("far_send raises", type(error).__name__)
            self.world.settle()

    def far_read(self):
        for name in ("peer", "other"):
            with contextlib.suppress(OSError):
                while True:
                    data, address = self.sockets[name].recvfrom(100_000)
                    self.world.add(f"{name} got", data, self.named(address))

    def far_close(self):
        self.sockets["peer"].close()

    def refused(self, what):
        loop, near = self.loop, self.addresses["peer"]
        with socket.socket() as stream:
            keywords = {
                "none": {},
                "both": {"sock": self.sockets["other"], "local_addr": ("127.0.0.1", 0)},
                "path": {"local_addr": 5, "family": socket.AF_UNIX},
                "family": {"remote_addr": ("::1", 1), "family": socket.AF_INET},
                "stream": {"sock": stream},
                "remote": {"remote_addr": "text"},
                "in_use": {"local_addr": near, "family": self.sockets["other"].family},
            }[what]
            try:
                transport, _ = loop.run_until_complete(
                    loop.create_datagram_endpoint(asyncio.DatagramProtocol, **keywords)
                )
            except Exception as error:
                self.world.add("refused", error)
            else:
                transport.abort()
                self.world.add("not refused")


class DatagramsMachine(Machine):
    name = "datagrams"
    programs = PROGRAMS

    def run(self, world, program):
        options, script, steps = program
        interpreter = Interpreter(world, options)
        world.keep.append(interpreter)
        if script is not None:
            interpreter.do_script(*script[1:])
        interpreter.connect()
        if interpreter.transport is None:
            return
        for step in steps:
            world.add(f"- {step[0]}")
            if step[0] == "do":
                world.loop.call_soon(interpreter.do_all, step[1])
            else:
                getattr(interpreter, step[0])(*step[1:])
            world.settle()
        interpreter.far_read()
        interpreter.do_all([("abort",)])
        world.settle()
        interpreter.do_state()


MACHINE = DatagramsMachine()

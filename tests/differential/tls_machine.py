"""TLS on one end of a connected pair, from the beginning or by start_tls(); the other end is an SSLObject."""

import contextlib
import functools
import ssl

from hypothesis import strategies as st
from support.helpers import client_tls, server_tls

from .comparing import SETTLED_TURNS
from .transport_machine import LEAVES, METHODS, SMALL_SIZES, Interpreter, TransportMachine

SIZES = st.sampled_from([0, 1, 10, 700, 5000, 40_000])
ACTIONS = st.one_of(
    st.tuples(st.just("write"), SIZES),
    st.tuples(st.just("writelines"), st.lists(SIZES, max_size=3)),
    LEAVES.filter(lambda action: action[0] not in ("write", "writelines", "limits", "info")),
    st.tuples(st.just("tls_info")),
)
SCRIPTS = st.tuples(
    st.just("script"),
    st.sampled_from(METHODS),
    st.lists(st.one_of(ACTIONS, ACTIONS, st.tuples(st.just("raise"))), min_size=1, max_size=3),
)
GROUPS = st.tuples(st.just("do"), st.lists(st.one_of(ACTIONS, ACTIONS, SCRIPTS), min_size=1, max_size=3))
FAR = st.one_of(
    st.tuples(st.just("far_send"), SMALL_SIZES),
    st.tuples(st.just("far_send"), SMALL_SIZES),
    st.tuples(
        st.sampled_from(["far_read", "far_read", "far_unwrap", "far_shutdown", "far_close", "far_garbage"])
    ),
)
OPTIONS = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["unix", "tcp"]),
        "is_server": st.booleans(),
        "way": st.sampled_from(["create", "create", "start_tls"]),
        "version": st.sampled_from(["TLSv1_2", "TLSv1_3"]),
        "protocol": st.sampled_from(["plain", "buffered", "tiny"]),
        "keep_open": st.booleans(),
        "handshake": st.sampled_from(
            ["good"] * 6 + ["garbage", "close", "wrong_name", "untrusted", "cancel"]
        ),
        "debug": st.booleans(),
    }
)
PROGRAMS = st.tuples(
    OPTIONS, SCRIPTS | st.none(), st.lists(st.one_of(GROUPS, GROUPS, FAR), min_size=3, max_size=14)
)


@functools.cache
def contexts(version):
    """(client's, client's without certificates, server's)."""
    found = client_tls(), ssl.create_default_context(), server_tls()
    for context in found:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    return found


class TlsInterpreter(Interpreter):
    not_after_the_end = (*Interpreter.not_after_the_end, "state")
    is_closed = False

    def __init__(self, world, options):
        super().__init__(world, {"is_shared": False, **options})
        trusting, distrusting, serving = contexts(options["version"])
        near_checks, far_checks = (True, False) if not options["is_server"] else (False, True)
        client = distrusting if options["handshake"] == "untrusted" else trusting
        name = "wrong" if options["handshake"] == "wrong_name" else "localhost"
        self.near_context = client if near_checks else serving
        self.name = None if options["is_server"] else name
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (client if far_checks else serving).wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=not far_checks,
            server_hostname=name if far_checks else None,
        )
        self.is_shaken = False
        self.far_error = None

    # The other end

    def pump(self):
        """Move what there is; return whether something moved."""
        moved = False
        with contextlib.suppress(OSError):
            while self.far_end is None:
                data = self.far.recv(1 << 16)
                if not data:
                    self.far_end = "end"
                    self.incoming.write_eof()
                    break
                moved = True
                self.incoming.write(data)
        try:
            if not self.is_shaken:
                self.tls.do_handshake()
                self.is_shaken = moved = True
            while data := self.tls.read(1 << 16):
                self.far_count += len(data)
                self.far_data += data
                moved = True
        except ssl.SSLWantReadError:
            pass
        except (ssl.SSLError, OSError):
            self.far_error = True
        data = self.outgoing.read()
        with contextlib.suppress(OSError):
            self.far.sendall(data)
        return moved or bool(data)

    def settle(self):
        """The peer answers, too."""
        for _ in range(100):
            super().settle()
            if self.far_error is None and self.options["handshake"] not in ("garbage", "close", "cancel"):
                if not self.pump():
                    return
            else:
                return

    def far_read(self):
        for _ in range(SETTLED_TURNS):
            self.settle()
        self.world.add(f"far has {self.far_count} bytes", bytes(self.far_data), self.far_end is not None)

    def far_send(self, size):
        if self.is_shaken and self.far_error is None:
            with contextlib.suppress(ssl.SSLError):
                self.tls.write(self.data.next(size))

    def far_unwrap(self):
        if self.is_shaken and self.far_error is None:
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()

    def far_garbage(self):
        with contextlib.suppress(OSError):
            self.far.sendall(b"neither a record of TLS nor anything else" * 10)

    # Connecting

    def connect(self):
        options = self.options
        self.far_data = bytearray()

        def factory():
            return self.new_protocol(options["protocol"])

        async def upgraded():
            transport, protocol = await self.loop.create_connection(factory, sock=self.near)
            transport = await self.loop.start_tls(
                transport,
                protocol,
                self.near_context,
                server_side=options["is_server"],
                server_hostname=self.name,
                ssl_handshake_timeout=3600,
            )
            self.transport = transport
            return transport, protocol

        if options["way"] == "start_tls":
            made = upgraded()
        elif options["is_server"]:
            made = self.loop.connect_accepted_socket(
                factory, self.near, ssl=self.near_context, ssl_handshake_timeout=3600
            )
        else:
            made = self.loop.create_connection(
                factory,
                sock=self.near,
                ssl=self.near_context,
                server_hostname=self.name,
                ssl_handshake_timeout=3600,
            )
        task = self.loop.create_task(made)
        handshake = options["handshake"]
        self.world.settle()
        if handshake == "garbage":
            self.far_garbage()
        elif handshake == "close":
            self.far_close()
        self.settle()
        if not task.done():
            task.cancel()
            self.settle()
        try:
            self.world.add("connected", task.result() is not None)
        except BaseException as error:
            self.world.add("not connected", error)
            return False
        return True

    def do_close(self):
        if not self.is_closed:  # after the second, asyncio's methods raise AttributeError
            self.is_closed = True
            super().do_close()

    def do_write_eof(self):
        self.world.attempt("write_eof", self.transport.write_eof)

    def do_raise(self):
        self.received.flush()
        self.received.is_muted = True  # asyncio delivers what is left to a protocol that has failed
        super().do_raise()

    def show_buffered(self):
        pass  # docs/differences.md: what is counted where

    def do_tls_info(self):
        info = self.transport.get_extra_info
        self.world.add(
            "info", info("cipher"), info("compression"), info("peercert"), type(info("ssl_object")).__name__
        )
        self.world.add("context", info("sslcontext") is self.near_context, type(info("socket")).__name__)


class TlsMachine(TransportMachine):
    name = "tls"
    programs = PROGRAMS

    def comparable(self, lines):
        # which callback of the TLS layer has failed because one of the program's has
        lines = [line.replace("protocol.buffer_updated()", "protocol.data_received()") for line in lines]
        return super().comparable(lines)

    def run(self, world, program):
        options, script, steps = program
        interpreter = TlsInterpreter(world, options)
        world.keep.append(interpreter)
        if script is not None:
            interpreter.do_script(*script[1:])
        if interpreter.connect():
            self.carry_out(interpreter, steps)


MACHINE = TlsMachine()

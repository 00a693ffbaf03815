"""TLS records at the engines: a peer's bytes cut into pieces, changed, repeated, ended early.

The peer is the ssl module. Whatever arrives, the plaintext is a beginning of what the peer wrote, because records are
authenticated; the end is seen only if the peer announced it; and errors are the ssl module's. With bytes that do not
depend on keys, both engines do the same.
"""

import ctypes
import functools
import pathlib
import ssl

from drivers.parsers import TlsEngineDriver

from .choices import Choices

DATA = pathlib.Path(__file__).parents[1] / "support" / "data"
SIZES = (1, 5, 100, 1000, 16384, 16385, 40_000, 0)
STEPS_MOST = 200
PENDING_MOST = 1 << 20
ALERT = b"\x15\0\2"  # the type and the length of a record with an alert
CONTEXTS: dict[tuple[bool, object], ssl.SSLContext] = {}


def context(is_server: bool, version: ssl.TLSVersion) -> ssl.SSLContext:
    key = (is_server, version)
    if key not in CONTEXTS:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = made.maximum_version = version
        made.options |= getattr(ssl, "OP_ALLOW_CLIENT_RENEGOTIATION", 1 << 8)  # a name since Python 3.12
        if is_server:
            made.load_cert_chain(DATA / "cert.pem", DATA / "key.pem")
        else:
            made.check_hostname = False
            made.verify_mode = ssl.CERT_NONE
        CONTEXTS[key] = made
    return CONTEXTS[key]


@functools.cache
def openssl() -> ctypes.CDLL | None:
    """The library of the ssl module, for what that has no method for."""
    import _ssl

    try:
        library = ctypes.CDLL(_ssl.__file__)
        library.SSL_renegotiate.argtypes = [ctypes.c_void_p]
        library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    except (AttributeError, OSError, TypeError):
        return None
    return library


class Peer:
    """The other end, an engine too, because its session is known; with what it wrote."""

    def __init__(self, is_server: bool, version: ssl.TLSVersion):
        self.version = version
        self.engine = TlsEngineDriver(context(is_server, version), is_server)
        self.is_connected = self.has_closed = self.has_announced = False
        self.written = bytearray()
        self.received = bytearray()

    def advance(self) -> None:
        """Do what its input allows; what it makes of changed bytes does not matter."""
        try:
            if not self.is_connected:
                self.engine.sslobj.do_handshake()
                self.is_connected = True
            while data := self.engine.read():
                self.received += data
        except (ssl.SSLError, OSError):
            pass

    def write(self, data: bytes) -> None:
        if not self.is_connected or self.has_closed or not data:
            return
        try:
            count = self.engine.write(data, 0, len(data))
        except ssl.SSLError:
            return
        self.written += data[:count]

    def close(self) -> None:
        if self.is_connected:
            self.has_closed = self.has_announced = True
            try:
                self.engine.sslobj.unwrap()
            except ssl.SSLWantReadError:
                pass
            except (ssl.SSLError, OSError):
                self.has_announced = False  # in a renegotiation

    def change_keys(self) -> None:
        library = openssl()
        if library is None or not self.is_connected or not self.engine.session:
            return
        if self.version == ssl.TLSVersion.TLSv1_3:
            library.SSL_key_update(self.engine.session, 1)
        else:
            library.SSL_renegotiate(self.engine.session)
        try:
            self.engine.sslobj.do_handshake()
        except (ssl.SSLError, OSError):
            pass


class Session:
    """An engine, its peer, and the bytes on their way."""

    def __init__(self, choices: Choices):
        self.choices = choices
        is_server = bool(choices.below(2))
        self.version = choices.of((ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2))
        is_plain = choices.below(4) == 3
        self.engine = TlsEngineDriver(context(is_server, self.version), is_server, is_plain=is_plain)
        self.peer = Peer(not is_server, self.version)
        self.to_engine = bytearray()
        self.to_peer = bytearray()
        self.received = bytearray()
        self.written = bytearray()
        self.is_connected = self.has_failed = False
        self.is_intact = True  # nothing was changed on its way to the engine
        if not is_server:
            self.advance()
        else:
            self.peer.advance()

    def advance(self) -> None:
        """What the protocol does when bytes arrived."""
        if self.has_failed:
            return
        try:
            if not self.is_connected:
                self.engine.sslobj.do_handshake()
                self.is_connected = True
            self.read()
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            pass
        except ssl.SSLError:
            self.has_failed = True

    def read(self) -> None:
        size = self.choices.of(SIZES)
        while not self.engine.is_at_end:
            if size:
                data = self.engine.read_into(size)
                assert len(data) <= size
            else:
                data = self.engine.read()
                assert data is None or data
            if not data:
                break
            self.received += data
            if len(self.received) > PENDING_MOST:
                break

    def write(self) -> None:
        choices = self.choices
        n_bytes = choices.of(SIZES) or 70_000
        data = bytes([choices.number()]) * (n_bytes + 7)
        offset = choices.below(7)
        if not self.is_connected or self.has_failed:
            return
        try:
            while n_bytes:
                count = self.engine.write(data, offset, n_bytes)
                assert 0 <= count <= n_bytes
                if count == 0:
                    break  # it has to read first
                self.written += data[offset : offset + count]
                offset += count
                n_bytes -= count
        except ssl.SSLError:
            self.has_failed = True

    def carry(self) -> None:
        """Move what both ends have to send onto the wire."""
        before = self.engine.outgoing_bytes
        data = self.engine.take()
        assert len(data) == before
        assert self.engine.outgoing_bytes == 0
        self.to_peer += data
        self.to_engine += self.peer.engine.take()
        del self.to_peer[PENDING_MOST:]
        if len(self.to_engine) > PENDING_MOST:
            self.is_intact = False
            del self.to_engine[PENDING_MOST:]

    def feed(self, count: int) -> None:
        if count:
            self.engine.feed(bytes(self.to_engine[:count]))
            del self.to_engine[:count]

    def give_peer(self) -> None:
        if self.to_peer:
            self.peer.engine.feed(bytes(self.to_peer))
            self.to_peer.clear()
            self.peer.advance()

    def change(self) -> None:
        """Change what is on its way to the engine."""
        choices, wire = self.choices, self.to_engine
        if not wire:
            return
        self.is_intact = False
        at = choices.number(2) % len(wire)
        how = choices.below(6)
        if how == 0:
            wire[at] ^= 1 << choices.below(8)
        elif how == 1:
            wire[at] = choices.number()
        elif how == 2:
            del wire[at : at + choices.number()]
        elif how == 3:
            wire[at:at] = choices.bytes(choices.number())
        elif how == 4:
            wire[at:at] = wire[: choices.number(2)]  # once more
        else:
            del wire[at:]

    def step(self) -> None:
        what = self.choices.below(12)
        if what <= 2:
            self.carry()
            self.give_peer()
            self.carry()
            self.feed(len(self.to_engine))
            self.advance()
        elif what == 3:
            self.carry()
            self.feed(self.choices.number())
            self.advance()
        elif what == 4:  # several pieces before anything is read
            self.carry()
            for _ in range(self.choices.below(6)):
                self.feed(self.choices.number())
            self.advance()
        elif what == 5:
            self.write()
        elif what == 6:
            self.peer.write(bytes([self.choices.number()]) * (self.choices.of(SIZES) or 70_000))
        elif what == 7:
            self.peer.write(self.choices.bytes(self.choices.number()))
        elif what == 8:
            self.change()
        elif what == 9:
            self.peer.change_keys()
        elif what == 10:
            self.peer.close()
        else:
            self.carry()
            self.give_peer()

    def finish(self) -> None:
        """Everything that is on its way arrives."""
        for _ in range(8):
            self.carry()
            self.give_peer()
            self.carry()
            self.feed(len(self.to_engine))
            self.advance()
            if not self.has_failed and self.is_connected:
                while not self.engine.is_at_end and len(self.received) <= PENDING_MOST:
                    try:
                        data = self.engine.read()
                    except ssl.SSLError:
                        self.has_failed = True
                        break
                    if not data:
                        break
                    self.received += data

    def judge(self) -> None:
        expected = bytes(self.peer.written)
        assert expected.startswith(bytes(self.received)), "other plaintext than the peer wrote"
        assert bytes(self.written).startswith(bytes(self.peer.received))
        if self.engine.is_at_end:
            assert self.peer.has_closed, "an end that the peer did not announce"
        if self.is_intact and len(expected) < PENDING_MOST // 2 and self.is_connected and not self.has_failed:
            assert bytes(self.received) == expected, "plaintext was lost"
            assert self.engine.is_at_end or not self.peer.has_announced


def check_session(choices: Choices) -> None:
    session = Session(choices)
    for _ in range(STEPS_MOST):
        if not choices:
            break
        session.step()
    session.finish()
    session.judge()


def check_first_bytes(choices: Choices) -> None:
    """The first bytes of a peer, the same ones to both engines in other pieces: the same errors and alerts."""
    is_server = bool(choices.below(2))
    version = choices.of((ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2))
    sizes = [choices.number() + 1 for _ in range(choices.below(8))]
    data = choices.rest()
    outcomes = []
    for is_plain in (True, False):
        engine = TlsEngineDriver(context(is_server, version), is_server, is_plain=is_plain)
        outcome: object = None
        at = 0
        taken = bytearray()
        for size in [*([0] if is_plain else sizes), len(data)]:
            piece, at = data[at : at + size], at + size
            if piece:
                engine.feed(piece)
            try:
                engine.sslobj.do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLSyscallError):
                outcome = "wants more"
            except ssl.SSLError as error:
                outcome = (type(error), error.reason)
                taken += engine.take()
                break
            taken += engine.take()
        last = bytes(taken[-7:])
        alert = last[5:] if last[:1] + last[3:5] == ALERT else b""
        outcomes.append((outcome, alert, len(taken)))
    assert outcomes[0] == outcomes[1], outcomes


def check(data: bytes) -> None:
    choices = Choices(data)
    if choices.below(4) == 3:
        check_first_bytes(choices)
    else:
        check_session(choices)


HELLO = bytes.fromhex("16030100310100002d0303") + bytes(32) + bytes.fromhex("000004002f00ff0100")
TALK = b"\0\0\0\0"  # carry, four times
SEEDS = [
    b"\0\0\0\0" + TALK + b"\5\x03a\0" + b"\6a\3" + TALK + b"\x0a" + TALK,
    b"\0\1\0\0" + TALK + b"\6a\4" + b"\4\5\7\7\7\7\7\7" + b"\3\xff\4" + TALK,
    b"\0\0\1\0" + TALK + b"\6a\6" + b"\x09" + TALK + b"\5\2b\0" + TALK + b"\x0a" + TALK,
    b"\0\1\1\0" + TALK + b"\6a\7" + b"\x09" + b"\5\2b\0" + TALK + b"\7\5abcde" + TALK + b"\x0a" + TALK,
    b"\0\1\0\3" + TALK + b"\6a\3" + TALK,
    b"\0\0\0\0" + b"\3\x20\0" * 12 + TALK + b"\6a\3\0\0\0\x0b\x08\x10\0\0\1" + TALK,
    b"\0\0\0\0\0\0\6a\3\x08\x20\1\4\x40\0" + TALK,
    b"\3\0\0\0" + HELLO,
    b"\3\1\1\2\3\4" + HELLO,
    b"\3\1\0\0" + b"GET / HTTP/1.1\r\n\r\n",
    b"\3\0\1\0" + bytes.fromhex("15030300020228"),
]

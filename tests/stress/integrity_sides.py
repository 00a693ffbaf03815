"""The two sides of each connection of the integrity torture test: their random actions and their checks.

The value of a byte follows from the connection, the direction and the position, so bytes that are lost, duplicated,
moved or from another connection are noticed in the chunk in which they arrive.  The data of an orderly connection
must arrive complete, without an error; of a rude one (aborted, closed early, a callback that raises) a prefix must.
"""

import asyncio
import collections
import contextlib
import random
import socket
import struct
import zlib

PERIOD = 1_000_003  # a prime, so it is no multiple of any size used here
PATTERN = memoryview(random.Random(0).randbytes(PERIOD) * 2)
HEADER = struct.Struct(">Q")  # what a client sends first: the number of its connection
GO_AHEAD = b"T"  # the server's answer to the header where start_tls() follows
NOTES_KEPT = 60


class Planned(Exception):
    """Raised by a callback on purpose."""


class Interrupt(KeyboardInterrupt):
    """Raised by a callback on purpose; leaves run_forever()."""


class Exit(SystemExit):
    """Likewise."""


class Stream:
    """One direction of a connection."""

    def __init__(self, number, total):
        self.base = number * 104_729 % PERIOD
        self.total = total
        self.written = 0
        self.received = 0
        self.checksum_written = self.checksum_received = 0

    def content(self, position, count):
        start = (self.base + position) % PERIOD
        return PATTERN[start : start + count]

    def take(self, count):
        """The next bytes to write; at most PERIOD."""
        data = self.content(self.written, min(count, self.total - self.written))
        self.written += len(data)
        self.checksum_written = zlib.crc32(data, self.checksum_written)
        return data

    def arrived(self, data):
        """Check the next chunk; returns what is wrong with it, or None."""
        for start in range(0, len(data), PERIOD):
            piece = data[start : start + PERIOD]
            wanted = self.content(self.received, len(piece))
            if piece != wanted:
                first = next(place for place in range(len(piece)) if piece[place] != wanted[place])
                return f"byte {self.received + first} of {self.written} is wrong: {where_from(self.base, piece, first)}"
            self.received += len(piece)
            self.checksum_received = zlib.crc32(piece, self.checksum_received)
        if self.received > self.written:
            return f"{self.received} bytes arrived of {self.written} that were written"
        return None

    def __repr__(self):
        return f"{self.received} of {self.written} of {self.total} bytes"


def where_from(base, piece, first):
    """The position at which the wrong byte would be right: a hint for finding the fault."""
    start = bytes(PATTERN).find(bytes(piece[first : first + 16]))
    return "bytes of no stream" if start < 0 else f"as at position {(start - base) % PERIOD} (mod {PERIOD})"


class Link:
    """One connection: its plan and its history."""

    def __init__(self, torture, number, dice):
        self.torture = torture
        self.number = number
        self.dice = dice
        self.kind = dice.choice(torture.kinds)
        self.is_tls = "tls" in self.kind
        self.is_rude = dice.random() < 0.3
        # at most one side: neither reads while it sends a file
        self.file_sender = dice.choice(("client", "server", None)) if torture.sends_files else None
        totals = [random_total(dice, torture.largest) for _ in range(2)]
        self.streams = {"client": Stream(2 * number, totals[0]), "server": Stream(2 * number + 1, totals[1])}
        self.sides = {}
        self.notes = collections.deque(maxlen=NOTES_KEPT)

    def __repr__(self):
        manner = "rude" if self.is_rude else "orderly"
        lines = [f"connection {self.number}: {self.kind}, {manner}"]
        for role, stream in self.streams.items():
            lines.append(f"  from the {role}: {stream!r}; {self.sides.get(role)!r}")
        return "\n".join(lines)

    def verify(self):
        """After the end: an orderly connection is complete."""
        if self.is_rude:
            return
        for role, stream in self.streams.items():
            if stream.received != stream.total:
                self.torture.fail(self, f"what the {role} sent is not whole")
            elif stream.checksum_received != stream.checksum_written:
                self.torture.fail(self, f"the checksum of what the {role} sent is wrong")
        sides = list(self.sides.values())
        if len(sides) != 2 or not any(side.n_ends for side in sides):
            self.torture.fail(self, "eof_received was called on no side")
        for side in sides:
            if side.error is not None:
                self.torture.fail(self, f"connection_lost of the {side.role} got {side.error!r}")


def random_total(dice, largest):
    most = dice.choice((0, 100, 5_000, 60_000, 60_000, 400_000, largest))
    return dice.randrange(most + 1)


def random_count(dice):
    """The size of a write."""
    return dice.randrange(1, dice.choice((2, 100, 3_000, 20_000, 100_000, PERIOD)) + 1)


class Face(asyncio.BaseProtocol):
    """The protocol that a transport calls; a side has several, one after the other."""

    def __init__(self, side):
        self.side = side

    def connection_made(self, transport):
        self.side.on_made(transport)

    def eof_received(self):
        return self.side.on_end(self)

    def pause_writing(self):
        self.side.on_pause(self)

    def resume_writing(self):
        self.side.on_resume(self)

    def connection_lost(self, error):
        self.side.on_lost(self, error)


class PlainFace(Face, asyncio.Protocol):
    def data_received(self, data):
        self.side.on_data(self, data)


class BufferedFace(Face, asyncio.BufferedProtocol):
    def get_buffer(self, size_hint):
        self.side.on_get_buffer(self)
        # a view, since asyncio's TLS writes into slices of it
        self.buffer = memoryview(bytearray(self.side.dice.choice((1, 100, 3_000, 65_536, 300_000))))
        return self.buffer

    def buffer_updated(self, count):
        self.side.on_data(self, bytes(self.buffer[:count]), "buffer_updated")


class Side:
    """One end of a connection.  Its dice depend only on the seed and its number, not on other connections."""

    def __init__(self, torture, role, link=None, dice=None):
        self.torture = torture
        self.role = role
        self.link = None
        self.dice = dice
        self.face = None
        self.transport = None
        self.header = b""
        self.phase = "header"
        self.n_ends = 0  # eof_received calls that returned
        self.is_ending = False  # eof_received is being called
        self.error = None
        self.is_made = self.is_lost = False
        self.is_reading_paused = self.is_writing_paused = False
        self.is_eof_written = self.is_closed = False
        self.is_busy = False  # sendfile or start_tls is using the transport
        self.is_refused = (
            False  # start_tls failed: connection_lost may come before or after that error, as in asyncio
        )
        self.is_pump_scheduled = False
        if link is not None:
            self.join(link)

    def __repr__(self):
        state = [name[3:] for name in vars(self) if name.startswith("is_") and getattr(self, name) is True]
        return f"{self.role} {self.phase} {' '.join(state)} ends={self.n_ends} {self.transport!r}"

    def join(self, link):
        """Assign this side to its connection."""
        self.link = link
        if self.role in link.sides:
            self.fail("a second connection with this number")
        link.sides[self.role] = self
        self.dice = random.Random(f"{self.torture.seed}:{link.number}:{self.role}")
        other = "server" if self.role == "client" else "client"
        self.out, self.coming = link.streams[self.role], link.streams[other]
        self.slowness = self.dice.choice((0, 0, 0, 0.3, 0.8))  # probability that it pauses after data
        self.restlessness = self.dice.choice(
            (0, 0.05, 0.3)
        )  # probability that a callback does something else
        self.wants_write_eof = self.dice.random() < 0.5
        if self.torture.is_stock and link.file_sender:
            self.wants_write_eof = False  # sendfile() resumes reading, and asyncio calls eof_received again

    def fail(self, what):
        self.torture.fail(self.link, f"{self.role}: {what}")

    def note(self, what):
        self.torture.note(self.link, f"{self.role} {what}")

    def make(self):
        """The protocol factory."""
        self.act_in("factory")
        self.face = self.dice.choice((PlainFace, BufferedFace))(self)
        return self.face

    # What the transport calls

    def check(self, face, name):
        self.note(name)
        if not self.is_made:
            self.fail(f"{name} before connection_made")
        if name == "connection_lost" and self.is_refused:
            self.is_refused = False
        elif self.is_lost and not (
            name == "resume_writing" and self.is_busy
        ):  # asyncio's sendfile over TLS resumes late
            self.fail(f"{name} after connection_lost")
        if face is not self.face:
            self.fail(f"{name} of a protocol that was replaced")

    def on_made(self, transport):
        self.note("connection_made")
        if self.is_made:
            self.fail("connection_made again")
        self.is_made = True
        self.transport = transport
        self.torture.live.add(self)
        self.torture.transports.add(transport)
        if self.dice.random() < 0.3:
            shrink(transport, self.dice)
        if self.link is not None:
            self.begin()
        self.act_in("connection_made")

    def begin(self):
        """Both sides know which connection this is."""
        if self.role == "client" and self.link.has_header:
            self.transport.write(HEADER.pack(self.link.number))
        if self.link.kind == "starttls":
            self.phase = "plain"
            if self.role == "server":
                self.transport.pause_reading()  # what follows is for start_tls
                self.transport.write(GO_AHEAD)
                self.upgrade()
            return
        self.phase = "stream"
        self.kick()
        self.may_end()

    def on_data(self, face, data, name="data_received"):
        self.check(face, name)
        if not len(data):
            self.fail("no data")
        if (
            self.is_reading_paused and not self.is_busy and name != "buffer_updated"
        ):  # get_buffer may have paused
            self.fail(f"{name} while reading is paused")
        if self.n_ends or self.is_ending:
            self.fail(f"{name} after eof_received")
        if self.link is None:
            data = self.read_header(data)
        elif self.phase == "plain" and not self.is_busy:
            if data != GO_AHEAD:
                self.fail(f"{bytes(data[:20])!r} instead of the go-ahead")
            self.upgrade()
            data = b""
        if len(data):
            wrong = self.coming.arrived(data)
            if wrong:
                self.fail(f"{name} of {len(data)}: {wrong}")
            self.torture.n_bytes += len(data)
        if self.link is not None:
            if self.dice.random() < self.slowness:
                self.pause_for_a_while()
            self.may_end()
        self.act_in(name)

    def read_header(self, data):
        """Returns the data after the header."""
        missing = HEADER.size - len(self.header)
        self.header += bytes(data[:missing])
        if len(self.header) == HEADER.size:
            number = HEADER.unpack(self.header)[0]
            if number not in self.torture.links:
                self.fail(f"no such connection: {number}")
                return b""
            self.join(self.torture.links[number])
            self.begin()
        return data[missing:]

    def on_get_buffer(self, face):
        self.check(face, "get_buffer")
        if self.is_reading_paused and not self.is_busy:
            self.fail("get_buffer while reading is paused")
        self.act_in("get_buffer")

    def on_end(self, face):
        self.check(face, "eof_received")
        if self.n_ends or self.is_ending:
            self.fail("eof_received again")
        if self.link is not None and not self.link.is_rude and self.coming.received != self.coming.total:
            self.fail(f"the end after {self.coming!r}")
        self.is_ending = True
        try:
            self.act_in("eof_received")
            self.n_ends += 1
        except BaseException:
            # with TLS it is not called again, neither in asyncio; otherwise it is, if it was interrupted
            self.n_ends += self.link is not None and self.link.is_tls
            raise
        finally:
            self.is_ending = False
        if self.link is None or self.link.is_tls:
            return None
        return self.out.written < self.out.total or self.is_busy

    def on_pause(self, face):
        self.check(face, "pause_writing")
        if self.is_writing_paused:
            self.fail("pause_writing again")
        self.is_writing_paused = True
        self.act_in("pause_writing")

    def on_resume(self, face):
        self.check(face, "resume_writing")
        # asyncio's sendfile over TLS resumes what it found paused, whatever the transport does later
        if not self.is_writing_paused and not (self.link.is_tls and self.role == self.link.file_sender):
            self.fail("resume_writing without pause_writing")
        self.is_writing_paused = False
        self.kick()
        self.act_in("resume_writing")

    def on_lost(self, face, error):
        self.check(
            self.face if self.link and self.link.is_tls else face, "connection_lost"
        )  # TLS: see set_protocol
        self.is_lost = True
        self.error = error
        self.torture.live.discard(self)
        self.act_in("connection_lost")

    # Random actions

    def act_in(self, name):
        """The possible actions of a callback, those that raise last."""
        dice, torture = self.dice, self.torture
        if self.link is None or self.phase != "stream":
            if dice.random() < torture.nesting:
                self.nest(name)
            return
        if dice.random() < self.restlessness:
            for _ in range(dice.randrange(1, 4)):
                dice.choice((self.nest, self.nest, self.stop, self.toggle, self.change_face, self.write))(
                    name
                )
        if self.link.is_rude and dice.random() < 0.04:
            self.be_rude(name)
        elif name in ("pause_writing", "resume_writing", "connection_lost") and dice.random() < 0.05:
            self.raise_planned(name)
        if (
            not self.is_busy
            and torture.may_interrupt(self.link, name)
            and dice.random() < torture.interrupting
        ):
            torture.n_interrupts += 1
            self.note(f"interrupts {name}")
            raise dice.choice((Interrupt, Exit))

    def nest(self, name):
        torture = self.torture
        if torture.nesting == 0 or torture.depth >= torture.deepest:
            return
        self.note(f"nests in {name}")
        torture.n_nested += 1
        torture.depth += 1
        torture.in_tasks += name == "factory"
        try:
            if self.dice.random() < 0.6:
                for _ in range(self.dice.randrange(1, 4)):
                    torture.loop.aio_context.poll(False)
            else:
                torture.loop.run_nested(short_rest(self.dice.choice((0, 1, 5)), self.dice.choice((0, 0.001))))
        finally:
            torture.depth -= 1
            torture.in_tasks -= name == "factory"
            self.note(f"returns in {name}")

    def stop(self, name):
        self.note("stops the loop")
        self.torture.n_stops += 1
        self.torture.loop.stop()

    def is_over(self):
        return not self.is_made or self.is_lost or self.transport.is_closing()

    def toggle(self, name):
        if self.is_over() or self.is_busy or (self.torture.is_stock and name == "get_buffer"):
            return  # asyncio calls eof_received again if get_buffer pauses right before the end
        if self.is_reading_paused:
            self.resume()
        else:
            self.pause_for_a_while()

    def pause_for_a_while(self):
        if self.is_over() or self.is_busy or self.is_reading_paused or self.n_ends or self.is_ending:
            return  # asyncio calls eof_received again after resume_reading
        self.note("pauses")
        self.is_reading_paused = True
        self.transport.pause_reading()
        self.later(self.resume)

    def resume(self):
        if not self.is_reading_paused or self.is_lost:
            return
        if self.is_busy:
            self.later(self.resume)
            return
        self.note("resumes")
        self.is_reading_paused = False
        self.transport.resume_reading()

    def later(self, function):
        """Call the function soon, or after a while."""
        seconds = self.dice.choice((0, 0, 0, 0.001, 0.01, 0.03))
        if seconds:
            self.torture.loop.call_later(seconds, function)
        else:
            self.torture.loop.call_soon(function)

    def change_face(self, name):
        if self.is_over() or self.is_busy or name == "get_buffer":
            return
        self.face = self.dice.choice((PlainFace, BufferedFace))(self)
        self.note(f"changes to {type(self.face).__name__}")
        self.transport.set_protocol(self.face)

    def write(self, name=None):
        if self.is_over() or self.is_busy or self.is_eof_written or self.out.written >= self.out.total:
            return
        data = self.out.take(random_count(self.dice))
        self.note(f"writes {len(data)}")
        manner = self.dice.randrange(5)
        if manner == 0:
            self.transport.write(bytearray(data))
        elif manner == 1:
            self.transport.write(data)
        elif manner == 2:
            self.transport.writelines(pieces(data, self.dice))
        else:
            self.transport.write(bytes(data))

    def be_rude(self, name):
        if self.is_over() or (self.torture.is_stock and name == "resume_writing"):
            return  # asyncio calls connection_lost twice if resume_writing ends the connection
        manner = self.dice.choice(("abort", "close", "raise", "raise"))
        self.note(f"is rude in {name}: {manner}")
        self.is_closed = True
        if (
            manner == "raise"
            and not self.is_busy
            and name not in ("factory", "pause_writing", "resume_writing")
        ):
            self.raise_planned(name)
        elif manner == "close" and not any(
            side.is_closed for side in self.link.sides.values() if side is not self
        ):
            self.transport.close()
        else:  # never close() on both sides: each would wait until the other reads, as with stock asyncio
            self.transport.abort()

    def raise_planned(self, name):
        self.note(f"raises in {name}")
        raise self.torture.planned_error(self.link, name)

    # Sending, and the end

    def kick(self):
        """Continue sending if anything is left."""
        if self.is_pump_scheduled or self.is_writing_paused or self.phase != "stream" or self.is_over():
            return
        self.is_pump_scheduled = True
        self.later(self.pump)

    def pump(self):
        self.is_pump_scheduled = False
        if self.is_over() or self.is_busy:
            return
        try:
            if self.role == self.link.file_sender and self.dice.random() < 0.1:
                self.send_file()
                return
            for _ in range(self.dice.randrange(1, 4)):
                if self.is_writing_paused and self.dice.random() < 0.9:
                    break
                self.write()
        finally:
            self.after_sending()

    def after_sending(self):
        if self.out.written < self.out.total:
            self.kick()
        else:
            self.may_end()

    def may_end(self):
        """End an orderly connection once everything is written, so that the peer loses nothing."""
        if self.is_over() or self.is_busy or self.phase != "stream" or self.out.written < self.out.total:
            return
        has_all = self.coming.received == self.coming.total
        if self.link.is_tls:
            if not has_all or (self.role == "server" and not self.n_ends):
                return
        elif not self.n_ends:
            if self.wants_write_eof and not self.is_eof_written:
                self.note("writes its end")
                self.is_eof_written = True
                self.transport.write_eof()
            if not has_all or self.role == "server":
                return
        self.note("closes")
        self.is_closed = True
        self.transport.close()

    def send_file(self):
        if self.out.written >= self.out.total:
            return
        self.is_busy = True
        self.torture.start(self._send_file())

    async def _send_file(self):
        offset = (self.out.base + self.out.written) % PERIOD
        count = len(self.out.take(random_count(self.dice)))
        self.note(f"sends a file of {count}")
        try:
            with open(self.torture.path, "rb") as file:
                sent = await self.torture.loop.sendfile(self.transport, file, offset, count)
            if sent != count:
                self.fail(f"sendfile sent {sent} of {count}")
        except (OSError, RuntimeError) as error:
            if not self.link.is_rude:
                self.fail(f"sendfile failed: {error!r}")
        finally:
            self.note("sent the file")
            self.is_busy = False
        self.after_sending()

    def upgrade(self):
        self.is_busy = True
        self.torture.start(self._upgrade())

    async def _upgrade(self):
        is_server = self.role == "server"
        try:
            self.transport = await self.torture.loop.start_tls(
                self.transport,
                self.face,
                self.torture.server_tls if is_server else self.torture.client_tls[0],
                server_side=is_server,
                server_hostname=None if is_server else "localhost",
            )
        except OSError as error:
            if not self.link.is_rude:
                self.fail(f"start_tls failed: {error!r}")
            self.is_refused = not self.is_lost
            self.is_lost = True
            self.torture.live.discard(self)
            return
        self.note("is secure")
        self.torture.transports.add(self.transport)
        self.is_busy = False
        self.phase = "stream"
        self.after_sending()


def shrink(transport, dice):
    """Use a small send buffer, so that more sends are short.

    Not a small receive buffer: a shrinking window makes TCP wait for retransmissions.
    """
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        least = 2048 if sock.family == socket.AF_UNIX else 16_384  # less than a segment is slow on TCP
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, dice.choice((least, 40_000)))


def pieces(data, dice):
    found = []
    while len(data):
        count = dice.randrange(1, dice.choice((3, 500, 50_000))) if len(found) < 1500 else len(data)
        found.append(bytes(data[:count]))
        data = data[count:]
    if dice.random() < 0.2:
        found.insert(dice.randrange(len(found) + 1), b"")
    return found


async def short_rest(n_turns, seconds):
    for _ in range(n_turns):
        await asyncio.sleep(0)
    if seconds:
        await asyncio.sleep(seconds)

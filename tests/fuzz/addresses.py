"""Socket addresses from the kernel's names to Python's tuples, and back."""

import os
import socket
import struct

from drivers.parsers import ROOM, addresses_of, name_of, packed_address_of

from .choices import Choices

FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, 0, 16, 40, 0xFFFF)
PATH_BYTES = 108
HOSTS = (
    *(
        "127.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "1.2.3",
        "1.2.3.4.5",
        "01.2.3.4",
        "0x7f.1",
        "1",
        "",
        "<broadcast>",
    ),
    *(
        "::",
        "::1",
        "fe80::1",
        "fe80::1%lo",
        "::ffff:1.2.3.4",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7",
        "1::2::3",
        "::g",
    ),
    *("localhost", "ümlaut", "\udc80", "127.0.0.1\0", "\0", " 127.0.0.1", "1" * 300),
)
NUMBERS = (
    0,
    1,
    80,
    0xFFFF,
    0x10000,
    -1,
    0xFFFFF,
    0x100000,
    0xFFFFFFFF,
    1 << 32,
    1 << 63,
    -(1 << 63),
    1 << 64,
)
STRANGE = (None, True, 1.5, b"127.0.0.1", "80")


class Text(str):
    """Not exactly a str."""


def packed(*fields: tuple[str, int | bytes]) -> bytes:
    """A struct sockaddr: ("H", 1) is the host's order, (">H", 1) the network's."""
    return b"".join(struct.pack(form if form[0] in "<>" else "=" + form, value) for form, value in fields)


def expected_address(name: bytes, n_bytes: int) -> object:
    """As CPython's makesockaddr() would make it."""
    if n_bytes < 2:
        return None
    (family,) = struct.unpack_from("=H", name)
    if family == socket.AF_INET:
        port, host = struct.unpack_from(">H4s", name, 2)
        return ".".join(map(str, host)), port
    if family == socket.AF_INET6:
        port, flow, host = struct.unpack_from(">HI16s", name, 2)
        return socket.inet_ntop(family, host), port, flow, struct.unpack_from("=I", name, 24)[0]
    rest = name[2 : min(n_bytes, len(name))]
    if family != socket.AF_UNIX:
        return family, rest
    return rest if rest[:1] == b"\0" else os.fsdecode(rest.partition(b"\0")[0])


def check_incoming(choices: Choices) -> None:
    """A name as the kernel writes it.

    It writes all of an internet name, and may report that an AF_UNIX name, or one of another kind, is longer than the
    room for it.
    """
    family = choices.of(FAMILIES)
    rest = choices.number()
    more = choices.below(4) * (choices.below(256) + 1)
    name = struct.pack("=H", family) + choices.bytes(ROOM - 2)
    memory = name.ljust(ROOM, bytes([rest]))
    if family == socket.AF_INET:
        n_bytes = 16
    elif family == socket.AF_INET6:
        n_bytes = 28
    else:
        n_bytes = choices.of((len(name), len(name) + more, 0, 1, 2))
    expected = expected_address(memory, n_bytes)
    again, known, fresh = addresses_of(memory, n_bytes, rest)
    assert again == known == fresh == expected, (again, known, fresh, expected)
    assert type(again) is type(expected)
    if family == socket.AF_INET:
        assert packed_address_of(memory[:16]) == expected
    else:
        assert packed_address_of(name) is None
    if family in (socket.AF_INET, socket.AF_INET6):
        assert known is again  # by the table
        # and back: the port and what follows it are all there; 20 bits of the flow information are an address's
        if family == socket.AF_INET or expected[2] <= 0xFFFFF:  # type: ignore[index]
            back = name_of(tuple(list(expected)), family)  # type: ignore[call-overload]
            size = 8 if family == socket.AF_INET else 28
            assert back[:size] == memory[:size]


def literal(host: object, family: int) -> bytes | None:
    if type(host) is not str or not host.isascii() or "\0" in host:
        return None
    try:
        return socket.inet_pton(family, host)
    except OSError:
        return None


def expected_name(address: object, family: int) -> bytes | None:
    """None where a socket's own method has to convert it, or to refuse it."""
    if type(address) is not tuple or not 2 <= len(address) <= (2 if family == socket.AF_INET else 4):
        return None
    host, *numbers = address
    packed_host = literal(host, family)
    limits = zip(numbers, (0xFFFF, 0xFFFFF, 0xFFFFFFFF), strict=False)
    if packed_host is None or not all(type(one) is int and 0 <= one <= most for one, most in limits):
        return None
    port, flow, scope = [*numbers, 0, 0][:3]
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack(">H4s8x", port, packed_host)
    return (
        struct.pack("=H", family) + struct.pack(">HI16s", port, flow, packed_host) + struct.pack("=I", scope)
    )


def chosen_host(choices: Choices) -> object:
    how = choices.below(6)
    if how == 0:
        return choices.of(STRANGE)
    if how == 1:
        return socket.inet_ntop(socket.AF_INET6, choices.bytes(16).ljust(16, b"\0"))
    if how == 2:
        return ".".join(str(choices.number()) for _ in range(4))
    host = choices.of(HOSTS)
    if how == 3:
        return Text(host)
    if how == 4:
        at = choices.below(len(host) + 1)
        return host[:at] + choices.bytes(choices.below(4)).decode("latin-1") + host[at + choices.below(2) :]
    return host


def check_outgoing(choices: Choices) -> None:
    """An address as a program passes it."""
    family = choices.of((socket.AF_INET, socket.AF_INET6))
    items: list[object] = [chosen_host(choices)]
    for _ in range(choices.of((1, 3, 2, 0, 4))):
        how = choices.below(4)
        number = choices.of(NUMBERS) if how < 2 else choices.number(2)
        items.append(choices.of(STRANGE) if how == 0 and choices.below(2) else number)
    address: object = items if choices.below(16) == 15 else tuple(items)
    expected = expected_name(address, family)
    first, known = name_of(address, family), name_of(address, family)
    assert first == known == expected, (address, first, known, expected)
    other = socket.AF_INET6 if family == socket.AF_INET else socket.AF_INET
    assert name_of(address, other) == expected_name(address, other)  # the table has it for one family


def check(data: bytes) -> None:
    choices = Choices(data)
    if choices.below(2):
        check_outgoing(choices)
    else:
        check_incoming(choices)


SEEDS = [
    b"\0\0\0\0\0" + packed((">H", 80), ("4s", b"\x7f\0\0\x01")),
    b"\0\x01\0\0\0" + packed((">H", 80), (">I", 5), ("16s", b"\xfe\x80" + bytes(13) + b"\1"), ("I", 2)),
    b"\0\x02\xff\0\0" + b"path",
    b"\0\x02\xff\0\0" + b"\0abstract",
    b"\0\x02\x01\x03\xff" + b"p" * PATH_BYTES + b"\0\0\1",  # reported as longer than what was written
    b"\0\x02\x01\x03\xff" + b"\0" + b"a" * (PATH_BYTES + 1) + b"\1",
    b"\0\x05\x01\0\0" + b"other family",
    b"\1\0\2\x7f\0\0\1\0\2\x50\0",
    b"\1\1\1" + b"\xfe\x80" + bytes(13) + b"\1" + b"\2\2\x50\0\2\1\0\2\2\0",
    b"\1\1\4\x0d\2\1%\0\0\2\x50\0",
]

"""An X server without a screen: its pixels, and a window manager's request to close a window."""

import asyncio
import contextlib
import ctypes
import functools
import os
import shutil
import struct
import sys
import zlib

XVFB = shutil.which("Xvfb")


class Picture:
    """Pixels of an X screen: rows of bytes, four each, blue first."""

    def __init__(self, dump):
        """dump: an XWD file, as Xvfb -fbdir keeps it."""
        header = struct.unpack_from(">25I", dump)
        header_bytes, self.width, self.height = header[0], header[4], header[5]
        byte_order, bits_per_pixel, bytes_per_line, n_colors = header[7], header[11], header[12], header[19]
        assert (byte_order, bits_per_pixel) == (0, 32), "an x86 screen of depth 24"
        first = header_bytes + 12 * n_colors
        self.rows = [
            dump[start : start + 4 * self.width]
            for start in range(first, first + self.height * bytes_per_line, bytes_per_line)
        ]
        assert len(self.rows[-1]) == 4 * self.width

    def longest_runs(self, belongs):
        """For each row the length of its longest run of pixels for which belongs(red, green, blue) is true."""

        @functools.cache
        def does_belong(pixel):
            return belongs(pixel[2], pixel[1], pixel[0])

        @functools.cache  # most rows are like others
        def longest_run(row):
            longest = run = 0
            for at in range(0, len(row), 4):
                run = run + 1 if does_belong(row[at : at + 3]) else 0
                longest = max(longest, run)
            return longest

        return [longest_run(row) for row in self.rows]

    def png(self):
        def chunk(kind, data):
            return (
                struct.pack(">I", len(data))
                + kind
                + data
                + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
            )

        lines = bytearray()
        for row in self.rows:
            line = bytearray(1 + 3 * self.width)
            for color, at in enumerate((2, 1, 0)):
                line[1 + color :: 3] = row[at::4]
            lines += line
        size = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            chunk(kind, data)
            for kind, data in ((b"IHDR", size), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
        )


class Screen:
    """A running Xvfb. name: for DISPLAY."""

    def __init__(self, name, pid, folder):
        self.name, self.pid, self.folder = name, pid, folder

    def picture(self):
        return Picture((self.folder / "Xvfb_screen0").read_bytes())

    async def close_windows(self):
        """Ask every window to close, as a click on its cross does."""
        script = await asyncio.create_subprocess_exec(sys.executable, __file__, self.name)
        assert await script.wait() == 0


@contextlib.asynccontextmanager
async def open_screen(folder, width=640, height=480):
    """A new X server, on a display number that it finds itself."""
    reads, writes = os.pipe()
    arguments = (
        "-screen",
        "0",
        f"{width}x{height}x24",
        "-fbdir",
        str(folder),
        "-nolisten",
        "tcp",
        "-noreset",
    )
    log = folder / "Xvfb.log"
    with open(log, "wb") as output:
        server = await asyncio.create_subprocess_exec(
            XVFB, "-displayfd", str(writes), *arguments, pass_fds=(writes,), stdout=output, stderr=output
        )  # fmt: skip
    os.close(writes)
    try:
        with open(reads, "rb") as pipe:
            number = await asyncio.to_thread(pipe.readline)
        assert number.strip(), f"Xvfb did not start: {log.read_text()}"
        yield Screen(f":{number.decode().strip()}", server.pid, folder)
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


# What a window manager does, in a process of its own, as Xlib calls exit() on errors


class ClientMessage(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int), ("serial", ctypes.c_ulong), ("send_event", ctypes.c_int),
        ("display", ctypes.c_void_p), ("window", ctypes.c_ulong), ("message_type", ctypes.c_ulong),
        ("format", ctypes.c_int), ("data", ctypes.c_long * 5),
    ]  # fmt: skip


class Event(ctypes.Union):
    _fields_ = [("client", ClientMessage), ("pad", ctypes.c_long * 24)]


CLIENT_MESSAGE = 33


def close_windows(display_name):
    x = ctypes.CDLL("libX11.so.6")
    x.XOpenDisplay.restype = ctypes.c_void_p
    x.XDefaultRootWindow.restype = x.XInternAtom.restype = ctypes.c_ulong
    display = ctypes.c_void_p(x.XOpenDisplay(display_name.encode()))
    assert display, f"no display {display_name}"
    n_sent, count, windows = 0, ctypes.c_uint(), ctypes.POINTER(ctypes.c_ulong)()
    root = ctypes.c_ulong(x.XDefaultRootWindow(display))
    unused = ctypes.byref(ctypes.c_ulong())
    x.XQueryTree(display, root, unused, unused, ctypes.byref(windows), ctypes.byref(count))
    for number in windows[: count.value]:
        window, atoms, n_atoms = ctypes.c_ulong(number), ctypes.POINTER(ctypes.c_ulong)(), ctypes.c_int()
        if not x.XGetWMProtocols(display, window, ctypes.byref(atoms), ctypes.byref(n_atoms)):
            continue  # it does not accept WM_DELETE_WINDOW
        event = Event()
        event.client.type, event.client.window, event.client.format = CLIENT_MESSAGE, window, 32
        event.client.message_type = x.XInternAtom(display, b"WM_PROTOCOLS", False)
        event.client.data[0] = x.XInternAtom(display, b"WM_DELETE_WINDOW", False)
        x.XSendEvent(display, window, False, ctypes.c_long(0), ctypes.byref(event))
        n_sent += 1
    x.XCloseDisplay(display)
    return n_sent


if __name__ == "__main__":
    sys.exit(close_windows(sys.argv[1]) == 0)

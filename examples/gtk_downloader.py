"""Downloads in a GTK window: aiohttp and asynchronous files inside GTK's own main loop, in one thread.

    python examples/gtk_downloader.py [--folder FOLDER] [--at-once N] [--measure] [URL ...]

More addresses can be typed into the window.  A file is called NAME.part until it is complete, then it replaces an older
one.  Closing the window, or Ctrl-C, cancels running downloads.  Exit status 0 if every file was downloaded.

Needs aiohttp, GTK 3 and PyGObject (Debian: gir1.2-gtk-3.0 and python3-gi).
"""

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import sys
import time
from urllib.parse import unquote

import aiohttp
import gi

import uringloop
import uringloop.glib
from uringloop import files

gi.require_version("Gtk", "3.0")
from gi.repository import Gio, GLib, Gtk, Pango  # noqa: E402

PIECE_BYTES = 256 * 1024
REFRESH_MS = 50  # the bars move twenty times a second, however often data arrive
TICK_MS = 16


class Row(Gtk.Box):
    """One file in the window: its name, its state, and its progress bar."""

    def __init__(self, name: str) -> None:
        super().__init__(orientation=Gtk.Orientation.VERTICAL, spacing=4)
        self.name, self.n_bytes, self.n_bytes_expected = name, 0, 0  # 0 expected: unknown
        self.is_running, self.has_failed = True, False
        self.state = Gtk.Label(label="waiting", ellipsize=Pango.EllipsizeMode.END, xalign=1, hexpand=True)
        self.bar = Gtk.ProgressBar()
        title = Gtk.Label(label=name, ellipsize=Pango.EllipsizeMode.MIDDLE, xalign=0)
        self.add(box(Gtk.Orientation.HORIZONTAL, title, self.state))
        self.add(self.bar)

    def refresh(self) -> None:
        if self.is_running and self.n_bytes:
            size = GLib.format_size(self.n_bytes)
            if self.n_bytes_expected:
                self.state.set_text(f"{size} of {GLib.format_size(self.n_bytes_expected)}")
                self.bar.set_fraction(min(1.0, self.n_bytes / self.n_bytes_expected))
            else:
                self.state.set_text(size)
                self.bar.pulse()

    def end(self, text: str, has_failed: bool = True) -> None:
        self.is_running, self.has_failed = False, has_failed
        self.state.set_text(text)
        self.state.set_tooltip_text(text)
        self.state.get_style_context().add_class("error" if has_failed else "dim-label")
        self.bar.set_fraction(0.0 if has_failed else 1.0)


class Ticks:
    """A timer every 16 ms: it is late when GTK is kept from drawing and from reacting to the mouse."""

    def __init__(self) -> None:
        self.intervals_ms: list[float] = []
        self.last_s = time.perf_counter()

    def tick(self, is_counted: bool) -> None:
        before_s, self.last_s = self.last_s, time.perf_counter()
        if is_counted:
            self.intervals_ms.append((self.last_s - before_s) * 1000)

    def __str__(self) -> str:
        p50, p99 = (statistics.quantiles(self.intervals_ms, n=100)[at] for at in (49, 98))
        worst = max(self.intervals_ms)
        return f"{len(self.intervals_ms)} ticks, p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {worst:.1f} ms"


class Downloader(Gtk.Application):
    def __init__(self, loop: asyncio.AbstractEventLoop, options: argparse.Namespace) -> None:
        super().__init__(flags=Gio.ApplicationFlags.NON_UNIQUE)
        self.loop, self.options = loop, options
        self.slots = asyncio.Semaphore(max(1, options.at_once))
        self.tasks: set[asyncio.Task[None]] = set()
        self.rows: list[Row] = []
        self.session: aiohttp.ClientSession | None = None
        self.ticks = Ticks()
        self.is_refreshing = False

    # GTK's callbacks: no task runs during these, but tasks can be made and cancelled

    def do_activate(self) -> None:
        self.address = Gtk.Entry(hexpand=True, activates_default=True)
        self.list = box(Gtk.Orientation.VERTICAL)
        scrolled = Gtk.ScrolledWindow(
            child=self.list, min_content_height=180, max_content_height=480,
            propagate_natural_height=True, vexpand=True,
        )  # fmt: skip
        self.overall, self.note = Gtk.ProgressBar(), Gtk.Label(xalign=0, hexpand=True, wrap=True)
        start, self.cancel = Gtk.Button(label="Download", can_default=True), Gtk.Button(label="Cancel")
        start.connect("clicked", lambda _: self.start_typed())
        self.cancel.connect("clicked", lambda _: self.cancel_all())
        top = box(Gtk.Orientation.HORIZONTAL, self.address, start)
        bottom = box(Gtk.Orientation.HORIZONTAL, self.note, self.cancel)
        content = box(Gtk.Orientation.VERTICAL, top, scrolled, self.overall, bottom)
        content.set_border_width(12)
        window = Gtk.ApplicationWindow(application=self, title="Downloads", default_width=520, child=content)
        window.set_default(start)
        self.refresh()
        window.show_all()
        if self.options.measure:
            GLib.timeout_add(TICK_MS, self.tick)
        for url in self.options.urls:
            self.start(url)

    def start_typed(self) -> None:
        for url in self.address.get_text().split():
            self.start(url)
        self.address.set_text("")

    def start(self, url: str) -> None:
        name = file_name(url)
        while any(name == row.name and not row.has_failed for row in self.rows):
            name = f"_{name}"
        row = Row(name)
        self.rows.append(row)
        self.list.add(row)
        row.show_all()
        if not self.is_refreshing:
            self.is_refreshing = True
            GLib.timeout_add(REFRESH_MS, self.refresh)
        task = self.loop.create_task(self.download(url, row))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def refresh(self) -> bool:
        """Show the progress; the timer that calls this ends with the last download."""
        for row in self.rows:
            row.refresh()
        fractions = [row.bar.get_fraction() if row.is_running else 1.0 for row in self.rows]
        self.overall.set_fraction(sum(fractions) / max(1, len(fractions)))
        n_failed = sum(row.has_failed for row in self.rows)
        n_here = sum(not row.is_running for row in self.rows) - n_failed
        note = f"{n_here} of {len(self.rows)} files are in {os.path.abspath(self.options.folder)}"
        self.note.set_text(f"{note}, {n_failed} failed" if n_failed else note)
        self.is_refreshing = bool(self.tasks)
        self.cancel.set_sensitive(self.is_refreshing)
        return self.is_refreshing

    def tick(self) -> bool:
        self.ticks.tick(is_counted=any(row.is_running and row.n_bytes for row in self.rows))
        return True

    def cancel_all(self) -> None:
        for task in self.tasks:
            task.cancel()

    # The asyncio part

    async def download(self, url: str, row: Row) -> None:
        """Fetch a file, or show the reason for the failure in its row."""
        try:
            async with self.slots:
                await self.fetch(url, row)
        except asyncio.CancelledError:
            row.end("cancelled")
            raise
        except (aiohttp.ClientError, OSError) as error:
            row.end(reason(error))
        except Exception as error:
            row.end(repr(error))
            raise  # a bug in this program; asyncio logs the traceback
        else:
            row.end(GLib.format_size(row.n_bytes), has_failed=False)

    async def fetch(self, url: str, row: Row) -> None:
        if self.session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
            unencoded = {
                "Accept-Encoding": "identity"
            }  # otherwise neither the data nor the length are those of the file
            self.session = aiohttp.ClientSession(timeout=timeout, headers=unencoded, auto_decompress=False)
        path = os.path.join(self.options.folder, row.name)
        async with self.session.get(url, raise_for_status=True) as response:
            row.n_bytes_expected = response.content_length or 0
            try:
                async with uringloop.open(f"{path}.part", "wb") as file:
                    async for piece in response.content.iter_chunked(PIECE_BYTES):
                        await file.write(piece)
                        row.n_bytes += len(piece)
                await files.rename(f"{path}.part", path)
            except BaseException:
                with contextlib.suppress(OSError):
                    await files.unlink(f"{path}.part")
                raise

    async def finish(self) -> None:
        """Clean up after the window is closed."""
        self.cancel_all()
        if self.tasks:
            await asyncio.wait(self.tasks)
        if self.session is not None:
            await self.session.close()


def box(orientation: Gtk.Orientation, *widgets: Gtk.Widget) -> Gtk.Box:
    made = Gtk.Box(orientation=orientation, spacing=12)
    for widget in widgets:
        made.add(widget)
    return made


def file_name(url: str) -> str:
    """The part after the last slash, which may be the host."""
    address = url.partition("://")[2].partition("?")[0].partition("#")[0]
    name = "".join(c if c.isprintable() else "_" for c in os.path.basename(unquote(address)))
    return "index.html" if name in ("", ".", "..") else name


def reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"{error.status} {error.message}"
    if isinstance(error, OSError) and (error.errno or 0) > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("urls", metavar="URL", nargs="*")
    parser.add_argument("--folder", default=".", help="where the files go (default: here)")
    parser.add_argument(
        "--at-once", type=int, default=4, help="number of simultaneous downloads (default: 4)"
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="print at the end how evenly a 16 ms timer fired while data arrived",
    )
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uringloop.glib.new_event_loop) as runner:
        app = Downloader(runner.get_loop(), options)
        for number in (signal.SIGINT, signal.SIGTERM):
            runner.get_loop().add_signal_handler(number, app.quit)
        try:
            status = app.run([])  # GTK's main loop, which also runs uringloop
        finally:
            runner.run(app.finish())
    if len(app.ticks.intervals_ms) > 1:
        print(app.ticks)
    return status or int(any(row.has_failed for row in app.rows))


if __name__ == "__main__":
    sys.exit(main())

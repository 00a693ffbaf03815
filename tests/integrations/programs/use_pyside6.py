"""asyncio inside PySide6's main loop, which on Linux is GLib's."""

import asyncio
import sys

from inside import blob, check_loop
from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QApplication, QPushButton

import uringloop.glib

app = QApplication(sys.argv)
loop = uringloop.glib.new_event_loop()
results = []


async def echo(reader, writer):
    writer.write(await reader.read())
    await writer.drain()
    writer.close()


async def work():
    check_loop()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(blob(900_000))
    writer.write_eof()
    assert await reader.read() == blob(900_000)
    writer.close()
    await writer.wait_closed()
    server.close()
    process = await asyncio.create_subprocess_exec("rev", stdin=-1, stdout=-1)
    output, _ = await process.communicate(b"abc")
    results.append(output)
    app.quit()


button = QPushButton("work")
button.clicked.connect(lambda: results.append(loop.create_task(work())))
button.show()
QTimer.singleShot(0, button.click)
app.exec()
assert results[1] == b"cba"
results[0].result()
loop.close()

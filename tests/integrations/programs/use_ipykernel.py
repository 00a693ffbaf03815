"""A kernel of ipykernel that a client starts: output, an awaited cell, an interrupt."""

import json
import pathlib

from jupyter_client.manager import start_new_kernel

CELL = "from inside import check_loop; print(check_loop()['loop'])"

# what `ipython profile create` makes a place for
profile = pathlib.Path.home() / ".ipython" / "profile_default"
profile.mkdir(parents=True)
(profile / "ipython_kernel_config.py").write_text(pathlib.Path("ipython_kernel_config.py").read_text())


def run(client, source):
    """(text of its output, status)"""
    texts = []
    reply = client.execute_interactive(
        source,
        timeout=30,
        output_hook=lambda message: texts.append(
            message["content"].get("text") or json.dumps(message["content"])
        ),
    )
    return "".join(texts), reply["content"]["status"]


manager, client = start_new_kernel(startup_timeout=60)
try:
    text, status = run(client, CELL)
    assert "uringloop." in text, text
    text, status = run(client, "import asyncio\nawait asyncio.sleep(0.01)\nprint('awaited')")
    assert (status, "awaited" in text) == ("ok", True), text
    text, status = run(client, "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(30)")
    assert status == "error", text
    assert "KeyboardInterrupt" in text, text
    text, status = run(client, "print('alive')")
    assert "alive" in text, text
finally:
    client.stop_channels()
    manager.shutdown_kernel()

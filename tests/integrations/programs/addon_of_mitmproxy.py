"""mitmdump with an addon that turns requests over, between a client and a loopback server."""

import os
import signal
import subprocess
import sys
import urllib.request

from inside import CHUNKS, blob, check_loop


class Reverse:
    def running(self):
        check_loop()

    def request(self, flow):
        if flow.request.method == "POST":
            flow.request.content = flow.request.content[::-1]


addons = [Reverse()]


def drive(port, target):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{port}"}))
    for size in (1, 70_000, 900_000):
        with opener.open(f"http://127.0.0.1:{target}/echo", blob(size), timeout=20) as answer:
            assert answer.read() == blob(size)[::-1]
    with opener.open(f"http://127.0.0.1:{target}/stream", timeout=20) as answer:
        assert answer.read() == b"".join(CHUNKS)


if __name__ == "__main__":
    from loopback_http import serving

    command = [
        "mitmdump",
        "--listen-host",
        "127.0.0.1",
        "--listen-port",
        "0",
        "-s",
        __file__,
        "--set",
        "confdir=.",
    ]
    proxy = subprocess.Popen(command, env={**os.environ, "URINGLOOP_AS": "asyncio"}, stdout=-1, text=True)
    try:
        for line in proxy.stdout:
            if "listening at" in line:
                break
        with serving() as target:
            drive(int(line.rpartition(":")[2].rstrip(".\n")), target)
    finally:
        proxy.send_signal(signal.SIGTERM)
        proxy.stdout.close()
        sys.exit(proxy.wait(20) or None)

"""Stalls of many kinds, for the tests of watch_stalls(): each blocks for about `seconds` in the line marked `# here`.

Each is a generator, which prepares itself up to its `yield`.  Those that compute are given an amount of work that takes
so long, in one call or in one operation, most of them with the GIL.
"""

import copy
import ctypes
import gc
import hashlib
import inspect
import json
import math
import os
import pickle
import queue
import random
import re
import select
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor


def sleeps(seconds):
    yield
    time.sleep(seconds)  # here


def loops(seconds):
    end = time.monotonic() + seconds
    yield
    while time.monotonic() < end:  # here
        pass  # here


def encodes_json(seconds):
    document = [1.5] * int(3e6 * seconds)
    yield
    json.dumps(document)  # here


def decodes_json(seconds):
    document = "[" + "1.5," * int(1e7 * seconds) + "1]"
    yield
    json.loads(document)  # here


def matches_a_pattern(seconds):
    text = "a" * (18 + int(math.log2(40 * seconds)))
    yield
    re.match(r"(a+)+$", text + "b")  # here


def raises_to_a_power(seconds):
    base = random.getrandbits(64) | 1
    yield
    base ** int(100_000 * (10 * seconds) ** 0.63 * 0.4)  # here


def prints_a_number(seconds):
    number = 1 << int(1e6 * seconds**0.5)
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    str(number)  # here
    sys.set_int_max_str_digits(limit)


def sorts(seconds):
    numbers = [random.random() for _ in range(int(1.5e6 * seconds))]
    yield
    numbers.sort()  # here


def sums(seconds):
    yield
    sum(range(int(5e7 * seconds)))  # here


def searches_a_list(seconds):
    numbers = [1.5] * int(3e7 * seconds)
    yield
    2.5 in numbers  # here  # noqa: B015


def copies_deeply(seconds):
    document = [[1] for _ in range(int(3e5 * seconds))]
    yield
    copy.deepcopy(document)  # here


def pickles(seconds):
    document = [str(number) for number in range(int(5e6 * seconds))]
    yield
    pickle.dumps(document)  # here


def compresses(seconds):
    data = random.randbytes(int(4e7 * seconds))
    yield
    zlib.compress(data)  # here


def hashes_a_password(seconds):
    yield
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", int(2e6 * seconds))  # here


def collects_garbage(seconds):
    kept = [[number] for number in range(int(1e6 * seconds))]  # noqa: F841
    yield
    gc.collect(), gc.collect(), gc.collect(), gc.collect(), gc.collect(), gc.collect()  # here


def queries_a_database(seconds):
    connection = sqlite3.connect(":memory:")
    numbers = (
        "with recursive n(i) as (select 1 union all select i + 1 from n where i < ?) select count(*) from n"
    )
    yield
    connection.execute(numbers, (int(3e6 * seconds),)).fetchone()  # here
    connection.close()


def _later(seconds, function, *args):
    timer = threading.Timer(seconds, function, args)
    timer.start()
    return timer


def reads_a_pipe(seconds):
    reader, writer = os.pipe()
    yield
    timer = _later(seconds, os.write, writer, b"x")
    os.read(reader, 1)  # here
    timer.join()
    os.close(reader)
    os.close(writer)


def opens_a_file_that_is_slow(seconds, path="/tmp"):
    path = os.path.join(path, f"fifo-{os.getpid()}-{random.getrandbits(64)}")
    os.mkfifo(path)
    opened = []
    yield
    timer = _later(seconds, lambda: opened.append(os.open(path, os.O_WRONLY)))
    file = open(path)  # here  # noqa: SIM115
    timer.join()
    file.close()
    os.close(opened[0])
    os.unlink(path)


def receives(seconds):
    ours, peer = socket.socketpair()
    with ours, peer:
        ours.settimeout(seconds)
        yield
        try:
            ours.recv(1)  # here
        except TimeoutError:
            pass


def requests_a_page(seconds):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection = server.accept()[0]
            time.sleep(seconds)
            with connection:
                connection.sendall(b"HTTP/1.0 204 No Content\r\n\r\n")

        thread = threading.Thread(target=answer)
        yield
        thread.start()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        opener.open(f"http://127.0.0.1:{server.getsockname()[1]}/").close()  # here
        thread.join()


def waits_for_a_child(seconds):
    yield
    subprocess.run(["sleep", str(seconds)], check=True)  # here


def waits_for_a_lock(seconds):
    lock = threading.Lock()
    lock.acquire()
    yield
    lock.acquire(timeout=seconds)  # here


def waits_for_a_thread(seconds):
    thread = threading.Thread(target=time.sleep, args=(seconds,))
    yield
    thread.start()
    thread.join()  # here


def waits_for_a_queue(seconds):
    yield
    try:
        queue.Queue().get(timeout=seconds)  # here
    except queue.Empty:
        pass


def waits_for_a_future(seconds):
    yield
    with ThreadPoolExecutor(1) as executor:
        executor.submit(time.sleep, seconds).result()  # here


def selects(seconds):
    yield
    select.select([], [], [], seconds)  # here


def calls_a_library(seconds):
    yield
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # here


def deletes(seconds):
    class Slow:
        def __del__(self):
            time.sleep(seconds)  # here

    slow = Slow()
    yield
    del slow


KINDS = [
    value
    for name, value in list(globals().items())
    if inspect.isfunction(value) and value.__module__ == __name__ and not name.startswith("_")
]


def lines_of(function):
    """The numbers of its marked lines."""
    lines, first = inspect.getsourcelines(function)
    return [number for number, line in enumerate(lines, first) if "# here" in line]

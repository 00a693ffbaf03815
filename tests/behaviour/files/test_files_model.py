"""Random operations, seeks and cancellations on a file, against a simple model in memory (Hypothesis)."""

import asyncio
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.helpers import run, turns

from uringloop import files

pytestmark = pytest.mark.slow

# Multiplies the number of examples, for a longer search: URINGLOOP_EXAMPLES=100.
TIMES = int(os.environ.get("URINGLOOP_EXAMPLES", "1"))

SIZES = st.one_of(st.integers(0, 30), st.integers(0, 20_000), st.sampled_from([8192, 131_072, 300_000]))
POSITIONS = st.one_of(st.integers(0, 50), st.integers(0, 400_000))
# After how many turns the operation is cancelled; most are not.
CANCELS = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 6))

STEPS = st.one_of(
    st.tuples(st.just("read"), SIZES, CANCELS),
    st.tuples(st.just("readall"), st.just(0), CANCELS),
    st.tuples(st.just("read1"), SIZES, CANCELS),
    st.tuples(st.just("readinto"), SIZES, CANCELS),
    st.tuples(st.just("readline"), st.just(0), CANCELS),
    st.tuples(st.just("write"), SIZES, CANCELS),
    st.tuples(st.just("flush"), st.just(0), CANCELS),
    st.tuples(st.just("seek"), POSITIONS, CANCELS),
    st.tuples(st.just("seek_by"), st.integers(-100, 100), CANCELS),
    st.tuples(st.just("seek_end"), st.integers(-100, 10), CANCELS),
    st.tuples(st.just("truncate"), POSITIONS, CANCELS),
    st.tuples(st.just("pread"), POSITIONS, CANCELS),
    st.tuples(st.just("pwrite"), POSITIONS, CANCELS),
    st.tuples(st.just("peek"), st.just(0), CANCELS),
)


def some_bytes(size, seed):
    """Data with line ends."""
    piece = b"%d,%d\n" % (seed, size) + bytes(range(seed % 200, seed % 200 + 40))
    return (piece * (size // len(piece) + 1))[:size]


class Model:
    """The expected file: contents and a position."""

    def __init__(self, content):
        self.content = bytearray(content)
        self.position = 0

    def put(self, data, position):
        if data:
            self.content += bytes(max(0, position - len(self.content)))
            self.content[position : position + len(data)] = data

    def get(self, size, position):
        return bytes(self.content[position : position + size])


async def cancelled(coroutine, n_turns):
    """(result, None) or (None, CancelledError)."""
    if n_turns is None:
        return await coroutine, None
    task = asyncio.ensure_future(coroutine)
    await turns(n_turns)
    task.cancel()
    try:
        return await task, None
    except asyncio.CancelledError as error:
        return None, error


async def take(file, model, step, seed):
    """Apply one step to both; the known effect of a cancelled step is applied to the model."""
    kind, number, cancel = step
    here = model.position
    if kind in ("read", "readall", "readinto", "readline", "read1"):
        size = len(model.content) if kind == "readall" else number
        wanted = model.get(size, here)
        if kind == "readinto":
            buffer = bytearray(number)
            count, error = await cancelled(file.readinto(buffer), cancel)
            got = bytes(buffer[:count]) if error is None else None
        else:
            how = {"read": file.read, "readall": file.read, "read1": file.read1, "readline": file.readline}[
                kind
            ]
            got, error = await cancelled(how(number) if kind in ("read", "read1") else how(), cancel)
        if error is not None:
            return
        if kind == "readline":
            end = model.content.find(b"\n", here) + 1
            wanted = bytes(model.content[here : end or None])
        if kind == "read1":
            assert wanted.startswith(got)
            assert bool(got) == bool(wanted)
        else:
            assert got == wanted
        model.position += len(got)
    elif kind in ("write", "pwrite"):
        data = some_bytes(number if kind == "write" else 1000, seed)
        where = here if kind == "write" else number
        call = file.write(data) if kind == "write" else file.pwrite(data, where)
        _, error = await cancelled(call, cancel)
        if error is not None:
            data = data[: getattr(error, "characters_written", 0)]
        model.put(data, where)
        if kind == "write":
            model.position += len(data)
    elif kind == "truncate":
        _, error = await cancelled(file.truncate(number), cancel)
        if error is not None:  # it may have been done or not
            await file.flush()
            number = os.fstat(file.fileno()).st_size
        model.content[number:] = bytes(max(0, number - len(model.content)))
    elif kind.startswith("seek"):
        base = {"seek": 0, "seek_by": here, "seek_end": len(model.content)}[kind]
        whence = ("seek", "seek_by", "seek_end").index(kind)
        if base + number < 0:
            with pytest.raises(OSError, match="Invalid argument"):
                await file.seek(number, whence)
            return
        await cancelled(file.seek(number, whence), cancel)
        model.position = await file.tell()
        assert model.position in ((here, base + number) if cancel is not None else (base + number,))
    elif kind == "pread":
        got, error = await cancelled(file.pread(1000, number), cancel)
        assert error is not None or got == model.get(1000, number)
    elif kind == "peek":
        got, error = await cancelled(file.peek(), cancel)
        assert error is not None or model.get(1 << 30, here).startswith(got)
    else:
        await cancelled(file.flush(), cancel)


async def scenario(path, buffering, steps):
    content = some_bytes(50_000, 7)
    path.write_bytes(content)
    model = Model(content)
    async with files.open(path, "r+b", buffering) as file:
        for seed, step in enumerate(steps):
            await take(file, model, step, seed)
            assert await file.tell() == model.position, step
    assert path.read_bytes() == model.content


@pytest.mark.parametrize("buffering", [-1, 100])
def test_a_file_behaves_like_its_model(loop, tmp_path, buffering):
    @settings(max_examples=120 * TIMES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(STEPS, max_size=25))
    def check(steps):
        run(loop, scenario(tmp_path / "file", buffering, steps))

    check()

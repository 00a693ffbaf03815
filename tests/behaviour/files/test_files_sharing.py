"""Files used by several tasks or loops."""

import asyncio
import threading

import pytest
from support.helpers import turns

from uringloop import files

# Several tasks


async def test_readers_of_one_file_take_turns(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(250)) * 4000)
    async with files.open(path, "rb") as file:

        async def reader():
            return [await file.read(1000) for _ in range(100)]

        parts = [part for parts in await asyncio.gather(*(reader() for _ in range(10))) for part in parts]
        assert all(part == bytes(range(250)) * 4 for part in parts)
        assert await file.tell() == 1_000_000


async def test_lines_written_by_many_tasks_are_whole(tmp_path):
    path = tmp_path / "file"
    async with files.open(path, "w", encoding="utf-8") as file:

        async def writer(number):
            for _ in range(50):
                await file.write(f"{number}" * 500 + "\n")
                await turns(1)

        await asyncio.gather(*(writer(number) for number in range(10)))
    lines = path.read_text().splitlines()
    assert len(lines) == 500
    assert all(line == line[0] * 500 for line in lines)


async def test_closing_waits_for_running_reads(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100_000)
    for _ in range(20):
        file = await files.open(path, "rb")
        reading = [asyncio.ensure_future(file.pread(50_000, 0)) for _ in range(5)]
        await turns(1)
        closing = [asyncio.ensure_future(file.close()) for _ in range(2)]
        assert [len(data) for data in await asyncio.gather(*reading)] == [50_000] * 5
        await asyncio.gather(*closing)
        with pytest.raises(ValueError, match="closed file"):
            await file.pread(1, 0)


async def test_thousands_of_files(tmp_path):
    async def one(number):
        path = tmp_path / str(number)
        async with files.open(path, "wb") as file:
            await file.write(b"%d" % number * 100)
        async with files.open(path, "rb") as file:
            return await file.read() == b"%d" % number * 100

    for start in range(0, 1000, 200):
        assert all(await asyncio.gather(*(one(number) for number in range(start, start + 200))))


async def test_a_large_read_does_not_block_the_loop(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(32 << 20))
    is_in_pieces = getattr(asyncio.get_running_loop(), "supports_sqe", False)
    async with files.open(path, "rb") as file:
        for read in (file.read(), file.pread(32 << 20, 0), file.seek(0), file.readinto(bytearray(32 << 20))):
            task = asyncio.ensure_future(read)
            n_turns = 0
            while not task.done():
                await turns(1)
                n_turns += 1
            result = await task
            if result:
                assert (result if isinstance(result, int) else len(result)) == 32 << 20
                # A thread may be done before the loop has run so many turns.
                assert n_turns >= (20 if is_in_pieces else 1)


# Several loops


def test_another_loop_is_refused_and_does_no_harm(new_loop, tmp_path):
    """Otherwise requests go to the ring of a loop that does not run, and writes to a buffer that is never written."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    loop, other = new_loop(), new_loop()

    async def open_all():
        return [await files.open(path, mode, buffering) for mode, buffering in USED_ELSEWHERE]

    async def use(opened):
        for file in opened:
            data = "x" if file.mode == "r+" else b"x"
            for call in (file.read, file.close, lambda file=file, data=data: file.write(data)):
                with pytest.raises(RuntimeError, match="belongs to the event loop that opened it") as caught:
                    await call()
                assert str(path) in str(caught.value)
                assert repr(loop) in str(caught.value)
            assert not file.closed

    async def use_at_home(opened):
        for file in opened:
            assert await file.read() in ("0123456789", b"0123456789")
            await file.close()

    opened = loop.run_until_complete(open_all())
    other.run_until_complete(use(opened))
    thread_errors = []

    def in_a_thread():
        try:
            asyncio.run(use(opened))
        except BaseException as error:
            thread_errors.append(error)

    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    assert thread_errors == []
    loop.run_until_complete(use_at_home(opened))
    loop.run_until_complete(loop.shutdown_default_executor())


USED_ELSEWHERE = [("r+b", -1), ("r+b", 0), ("r+", -1)]


def test_after_its_loop_was_closed_a_file_can_only_be_closed(new_loop, tmp_path):
    async def open_it():
        return await files.open(tmp_path / "file", "w+b")

    async def use(file):
        for call in (file.read, lambda: file.write(b"x"), lambda: file.pread(1, 0)):
            with pytest.raises(RuntimeError, match="is closed: only close"):
                await call()
        await file.close()
        assert file.closed

    loop = new_loop()
    file = loop.run_until_complete(open_it())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    new_loop().run_until_complete(use(file))


@pytest.mark.parametrize("mode", ["w", "wb", "a", "ab"])
def test_close_after_the_loop_has_ended_loses_nothing(new_loop, tmp_path, mode):
    """Otherwise the file reports that it is closed, although buffered data is lost."""
    path = tmp_path / "file"
    path.write_bytes(b"old ")
    pending = "pending" if mode in "wa" else b"pending"

    async def write():
        file = await files.open(path, mode)
        await file.write(pending)
        return file

    async def close(file):
        await file.close()

    loop = new_loop()
    file = loop.run_until_complete(write())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
    new_loop().run_until_complete(close(file))
    assert file.closed
    assert path.read_bytes() == (b"pending" if "w" in mode else b"old pending")

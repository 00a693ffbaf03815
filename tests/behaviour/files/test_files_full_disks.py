"""File systems that accept no writes: full or read-only ones."""

import contextlib
import errno
import os
import resource

import pytest

from uringloop import files


@contextlib.contextmanager
def small_file_system(folder, options):
    """A tmpfs of 1 MiB, for root only."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, options) != 0:
        pytest.skip(f"mount: {os.strerror(ctypes.get_errno())}")
    try:
        yield libc
    finally:
        # Lazily (MNT_DETACH): it was busy for more than 10 s with no fd open and nothing in flight, while a worker of
        # io_uring was asleep. The worker seems to release the file of its last request when it next wakes.
        assert libc.umount2(bytes(folder), 2) == 0


async def test_a_full_disk_is_reported_and_unwritten_data_is_kept(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    with small_file_system(folder, b"size=1m"):
        file = await files.open(folder / "file", "wb")
        with pytest.raises(OSError, match="No space left") as caught:
            await file.write(bytes(3 << 20))
        assert caught.value.errno == errno.ENOSPC
        written = caught.value.characters_written
        assert written == await file.tell() == (folder / "file").stat().st_size == 1 << 20
        await file.write(b"small")
        with pytest.raises(OSError, match="No space left"):
            await file.flush()
        os.truncate(folder / "file", 4096)
        await file.flush()
        assert (folder / "file").read_bytes()[-5:] == b"small"
        await file.close()
        file = await files.open(folder / "other", "wb")
        await file.write(bytes(100_000))
        (folder / "filler").write_bytes(bytes(os.statvfs(folder).f_bavail * os.statvfs(folder).f_bsize))
        fd = file.fileno()
        with pytest.raises(OSError, match="No space left"):
            await file.close()
        assert file.closed
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


async def test_a_limit_of_the_file_size_is_reported(tmp_path):
    """Python ignores SIGXFSZ."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = await files.open(tmp_path / "file", "wb")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            await file.write(bytes(300_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert caught.value.errno == errno.EFBIG
    assert caught.value.characters_written == (tmp_path / "file").stat().st_size == 100_000
    await file.close()


async def test_a_read_only_file_system_is_reported(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    remount, read_only = 32, 1
    with small_file_system(folder, b"size=1m") as libc:
        (folder / "file").write_bytes(b"x")
        assert libc.mount(b"none", bytes(folder), b"tmpfs", remount | read_only, b"") == 0
        for mode in ("w", "r+b", "a"):
            with pytest.raises(OSError, match="Read-only file system") as caught:
                await files.open(folder / "file", mode)
            assert caught.value.filename == str(folder / "file")
        with pytest.raises(OSError, match="Read-only file system"):
            await files.unlink(folder / "file")
        async with files.open(folder / "file", "rb") as file:
            assert await file.read() == b"x"

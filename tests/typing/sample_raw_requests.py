"""Raw requests as a type checker sees them."""

import asyncio

import uringloop


def completed(cqe: uringloop.Cqe) -> None:
    print(cqe.res, cqe.flags, cqe.more, cqe.buffer_id)


async def main() -> None:
    loop = uringloop.get_running_loop()
    if not loop.supports_sqe:
        return
    from uringloop.liburing import ffi, lib

    request: uringloop.RawRequest = loop.add_sqe(lib.io_uring_prep_nop)
    result: int = await request
    cqe: uringloop.Cqe | None = request.cqe
    assert cqe is not None
    assert cqe.res == result == 0
    both: list[uringloop.RawRequest] = loop.add_sqes([(lib.io_uring_prep_nop,), (lib.io_uring_prep_nop,)])
    results: list[int] = await asyncio.gather(*both)
    assert results == [0, 0]
    first, second = await asyncio.gather(
        asyncio.wait_for(loop.add_sqe(lib.io_uring_prep_nop), 10), loop.add_sqe(lib.io_uring_prep_nop)
    )
    assert (first, second) == (0, 0)
    after = ffi.new("struct __kernel_timespec *", {"tv_sec": 1})
    ticks = loop.add_sqe(
        lib.io_uring_prep_timeout, after, 0, lib.IORING_TIMEOUT_MULTISHOT, callback=completed, multishot=True
    )
    await ticks.aclose()
    done: bool = ticks.done()
    assert done
    assert loop.aio_context.add_sqe(lib.io_uring_prep_nop, callback=completed).cancel()
    group: int = uringloop.FIRST_RESERVED_GROUP
    assert group > 0


uringloop.run(main())

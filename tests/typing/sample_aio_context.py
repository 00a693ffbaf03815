"""AioContext, polling and nested loops as a type checker sees them."""

import asyncio

import uringloop


class Counter:
    def __init__(self, context: uringloop.AioContext) -> None:
        self.context = context
        self.notifier = uringloop.EventNotifier()
        self.half: uringloop.BottomHalf = context.new_bottom_half(self.count, 1)
        self.memory: uringloop.PollHandler = context.add_poll_handler(self.poll, self.take)
        self.timer: asyncio.TimerHandle = context.call_at_ns(context.time_ns() + 1_000, self.count, 10)
        self.total = 0
        self.waiting = 1

    def count(self, number: int) -> None:
        self.total += number

    def poll(self) -> bool:
        return self.waiting > 0

    def take(self) -> None:
        self.waiting -= 1
        self.total += 100

    def notified(self) -> None:
        assert self.notifier.test_and_clear()
        self.total += 1000


def without_asyncio() -> None:
    with uringloop.AioContext() as context:
        counter = Counter(context)
        context.set_poll_params(10_000, idle_ns=1_000_000)
        context.set_event_notifier(
            counter.notifier, counter.notified, io_poll=lambda: False, io_poll_ready=print
        )
        counter.half.schedule()
        counter.notifier.set()
        while counter.total < 1111:
            progress: bool = context.poll(True)
            assert isinstance(progress, bool)
        context.set_fd_handler(counter.notifier.fileno())
        counter.memory.remove()
        counter.notifier.close()
        numbers: uringloop.Statistics = context.statistics()
        turns: int = numbers.turns
        reason: str | None = context.fdmon_reason
        print(context.fdmon, reason, turns)


async def main() -> int:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, uringloop.Loop)
    context: uringloop.AioContext = loop.aio_context
    context.poll(False)
    loop.set_poll_params(100_000)
    handler = loop.add_poll_handler(lambda: False, print)
    handler.remove()
    number: int = loop.run_nested(asyncio.sleep(0, 5))
    future: asyncio.Future[int] = loop.create_future()
    loop.call_soon(future.set_result, 1)
    loop.nested = True
    inner: int = loop.run_until_complete(future)
    return number + inner


without_asyncio()
assert uringloop.run(main()) == 6

"""Debug mode: the repr of a callback runs in the middle of cancel(), and may do anything."""

from support.helpers import one_turn, run_script, turn_until


def test_cancelling_inside_the_reprs_of_cancelled_timers_leaves_the_heap_whole(monitor):
    """Each repr cancels the next timer; the innermost cancels many, and the heap is compacted."""
    run_script(
        """
        loop = make_loop(MONITOR)
        loop.set_debug(True)
        sys.setrecursionlimit(100_000)
        N_NESTED = 100  # Python 3.12 allows 1500 nested C calls, and a repr takes eight here

        class Callback:
            def __init__(self, number):
                self.number = number
            def __call__(self):
                raise AssertionError("cancelled")
            def __repr__(self):
                if self.number + 1 < N_NESTED:
                    nested[self.number + 1].cancel()
                else:
                    for handle in others:
                        handle.cancel()
                return f"Callback({self.number})"

        for _ in range(20):
            nested, others = [], []
            nested += [loop.call_later(100, Callback(number)) for number in range(N_NESTED)]
            others += [loop.call_later(100, print) for _ in range(400)]
            ran = []
            kept = [loop.call_at(at, ran.append, at) for at in (3, 1, 2)]
            nested[0].cancel()
            assert all(handle.cancelled() for handle in nested + others)
            # malloc checks its blocks here
            del [bytearray(size) for size in range(8, 8000, 8)][:]
            turn_until(loop, lambda: len(ran) == 3)
            assert ran == [1, 2, 3]
        one_turn(loop)
        loop.close()
        """,
        monitor,
    )


def test_timers_made_and_cancelled_inside_a_repr_run_in_their_order(loop):
    loop.set_debug(True)
    ran, made = [], []
    start = loop.time()

    class Callback:
        def __call__(self):
            ran.append("cancelled")

        def __repr__(self):
            for number in range(30):
                loop.call_at(start + 100, ran.append, "cancelled").cancel()
                made.append(loop.call_at(start - number, ran.append, -number))
            return "Callback()"

    handles = [loop.call_at(start, Callback()) for _ in range(30)]
    for handle in handles:
        handle.cancel()
    assert len(made) >= 900
    assert "Callback()" in repr(handles[0])
    turn_until(loop, lambda: len(ran) >= len(made))
    one_turn(loop)
    assert ran == sorted(ran)
    assert len(ran) == len(made)

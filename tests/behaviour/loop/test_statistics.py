"""loop.statistics(): the names of its counters, and what they count."""

import pytest
from support.helpers import STOCK
from support.selection_tools import script

pytestmark = pytest.mark.usefixtures("uringloop_only")


def test_statistics_have_the_documented_names_and_count(monitor):
    if monitor == STOCK:
        pytest.skip("about uringloop's own features")
    script(
        f"""
        loop = uringloop.new_event_loop(fdmon={monitor!r})
        names = {{"fdmon", "handlers", "in_flight", "submitted", "completed", "cq_overflows", "syscalls",
                 "poll_hits", "poll_misses"}}
        statistics = loop.statistics()
        assert names <= set(statistics), names - set(statistics)
        assert all(type(statistics[each]) is int for each in names - {{"fdmon"}})
        near, far = socket.socketpair()
        handlers = statistics["handlers"]
        loop.add_reader(near, lambda: (near.recv(1), loop.stop()))
        assert loop.statistics()["handlers"] == handlers + 1
        far.send(b"x")
        loop.run_forever()
        after = loop.statistics()
        assert after["syscalls"] > statistics["syscalls"]
        if {monitor!r} == "io_uring":
            assert after["submitted"] > 0 and after["completed"] > 0
        loop.remove_reader(near)
        one_turn(loop)
        assert loop.statistics()["handlers"] == handlers
        loop.close()
        assert loop.statistics()["in_flight"] == 0
        near.close()
        far.close()
        """
    )

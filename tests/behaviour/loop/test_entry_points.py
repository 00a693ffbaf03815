"""uringloop.run(), the policy, and what importing uringloop changes."""

import pytest
from support.helpers import run_script
from support.selection_tools import script

pytestmark = pytest.mark.usefixtures("uringloop_only")


def test_run_uses_a_uringloop_loop_and_closes_it():
    script(
        """
        async def main():
            loop = asyncio.get_running_loop()
            assert isinstance(loop, uringloop.Loop)
            return loop
        loop = uringloop.run(main())
        assert loop.is_closed()
        try:
            uringloop.run(5)
        except (ValueError, TypeError):
            pass
        else:
            raise AssertionError("ran a number")
        """
    )


def test_the_policy_makes_uringloop_loops_while_python_has_policies():
    script(
        """
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        if sys.version_info >= (3, 16):
            raise SystemExit
        uringloop.install()
        assert isinstance(asyncio.get_event_loop_policy(), uringloop.EventLoopPolicy)
        async def main():
            return type(asyncio.get_running_loop())
        assert asyncio.run(main()) is uringloop.Loop
        loop = asyncio.new_event_loop()
        assert isinstance(loop, uringloop.Loop)
        loop.close()
        asyncio.set_event_loop_policy(None)
        """
    )


def test_importing_changes_nothing():
    run_script(
        """
        before = asyncio.open_connection, asyncio.start_server, asyncio.set_event_loop, asyncio.new_event_loop
        fds = sorted(os.listdir("/proc/self/fd"))
        import threading
        threads = threading.active_count()
        import uringloop
        assert before == (
            asyncio.open_connection, asyncio.start_server, asyncio.set_event_loop, asyncio.new_event_loop
        )
        loop = asyncio.SelectorEventLoop()
        loop.close()
        assert sorted(os.listdir("/proc/self/fd")) == fds
        assert threading.active_count() == threads
        """
    )

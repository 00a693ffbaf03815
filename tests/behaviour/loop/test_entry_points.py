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


def test_get_running_loop_returns_the_loop_that_runs():
    script(
        """
        async def main():
            assert uringloop.get_running_loop() is asyncio.get_running_loop()
        uringloop.run(main())
        """
    )


def test_get_running_loop_refuses_as_asyncio_where_none_runs():
    script(
        """
        texts = []
        for get in (asyncio.get_running_loop, uringloop.get_running_loop):
            try:
                get()
            except RuntimeError as error:
                texts.append(str(error))
        assert texts == ["no running event loop"] * 2, texts
        """
    )


def test_get_running_loop_names_a_loop_of_another_kind_and_the_remedy():
    script(
        """
        async def main():
            try:
                uringloop.get_running_loop()
            except TypeError as error:
                assert repr(asyncio.get_running_loop()) in str(error), error
                assert "uringloop.run(main())" in str(error), error
                return True
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            assert runner.run(main())
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

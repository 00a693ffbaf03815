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


def test_install_warns_from_the_version_on_where_asyncio_does():
    script(
        """
        import warnings
        if sys.version_info >= (3, 16):
            raise SystemExit
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            uringloop.install()
        since = sys.version_info >= (3, 14)
        assert [str(w.message)[:32] for w in caught] == ["uringloop.install() is deprecate"] * since, caught
        assert all(w.filename == "<string>" for w in caught), "not the caller's line"
        """
    )


def test_install_warns_once_where_asyncio_warns_too():
    """Python 3.14, also on older ones."""
    script(
        """
        import types, warnings
        if sys.version_info >= (3, 16):
            raise SystemExit
        import uringloop.policy
        uringloop.policy.sys = types.SimpleNamespace(version_info=(3, 14))
        set_policy = asyncio.set_event_loop_policy
        def warn_and_set(policy):
            warnings.warn("asyncio.set_event_loop_policy is deprecated", DeprecationWarning, stacklevel=2)
            set_policy(policy)
        asyncio.set_event_loop_policy = warn_and_set
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            uringloop.install()
        assert ["uringloop.install()" in str(w.message) for w in caught] == [True], caught
        warnings.simplefilter("ignore", DeprecationWarning)  # asyncio's own, from Python 3.14 on
        assert isinstance(asyncio.get_event_loop_policy(), uringloop.EventLoopPolicy)
        """
    )


def test_run_in_a_running_loop_says_what_to_do():
    script(
        """
        sentence = "asyncio.run() cannot be called from a running event loop"
        def refusal():
            main = asyncio.sleep(0)
            try:
                uringloop.run(main)
            except RuntimeError as error:
                return str(error)
            finally:
                main.close()
        async def ask():
            return refusal()
        ours = uringloop.run(ask())
        assert ours.startswith(sentence) and "await" in ours and "uringloop.allow_nested()" in ours, ours
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            others = runner.run(ask())
        assert others.startswith(sentence) and "await" in others and "allow_nested" not in others, others
        uringloop.allow_nested()
        assert uringloop.run(ask()) is None
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

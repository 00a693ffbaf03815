"""Fixtures of the tests about the choice of a monitor."""

import pytest
from support.helpers import make_loop


@pytest.fixture
def uringloop_only(request):
    """Skip where only stock asyncio is tested."""
    if set(request.config.getoption("--monitor") or ["io_uring"]) == {"asyncio"}:
        pytest.skip("about uringloop's own features")


@pytest.fixture
def io_uring():
    """Skip where io_uring is not available at all."""
    import uringloop

    try:
        make_loop("io_uring").close()
    except uringloop.MonitorUnavailable as error:
        pytest.skip(str(error))

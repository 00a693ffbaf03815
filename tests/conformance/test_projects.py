"""The quick part of `python -m tests.conformance`: suites of other projects that only take seconds, on each monitor.

Their environments and sources come from PyPI, by pip; if that fails, the tests are skipped with the reason.
"""

import pytest

from . import projects, targets

#: Together about half a minute for asyncio and the three monitors.
QUICK = [
    ("uvloop", name) for name in ("test_unix", "test_udp", "test_pipes", "test_context", "test_executors")
]
TEST_SECONDS = 20.0
MODULE_SECONDS = 50.0  # less than the limit of tests/conftest.py, which ends the whole session


@pytest.fixture(scope="module")
def baselines():
    """asyncio's own results by suite, measured, like the environments, before the first test, not within its time."""
    unavailable = {}
    for name, module in QUICK:
        if name not in unavailable:
            try:
                projects.SUITES[name].modules([module])
            except targets.Unavailable as error:
                unavailable[name] = str(error)
            else:
                projects.SUITES[name].baseline(module, test_seconds=TEST_SECONDS)
    return unavailable


@pytest.mark.parametrize(("name", "module"), QUICK, ids=lambda part: part)
def test_each_monitor_passes_what_asyncio_passes(baselines, monitor, name, module):
    if name in baselines:
        pytest.skip(baselines[name])
    place = targets.find("uringloop", monitor)
    limits = {"test_seconds": TEST_SECONDS, "module_seconds": MODULE_SECONDS}
    verdict = projects.SUITES[name].check(module, place, **limits)
    for test_id in verdict.flaky:
        print(f"flaky: {test_id} passed only on the second try")
    if not verdict.is_good:
        pytest.fail(verdict.failures_text(), pytrace=False)

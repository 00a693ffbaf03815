"""The quick part of `python -m tests.conformance cpython`, on the running interpreter and each monitor.

Left out are the modules about tasks, which take long because they sleep and use little of a loop.
"""

import pytest

from . import targets
from .cpython import suite

SLEEPY = {"test_tasks", "test_taskgroups"}
TEST_SECONDS = 15.0
MODULE_SECONDS = 45.0  # less than the limit of tests/conftest.py, which ends the whole session


def quick_modules() -> list[str]:
    try:
        return [name for name in suite.modules() if name not in SLEEPY]
    except targets.Unavailable as error:
        return [pytest.param("none", marks=pytest.mark.skip(reason=str(error)))]


@pytest.fixture(scope="module")
def baselines():
    """asyncio's own results, measured before the first test, not within its time."""
    for name in quick_modules():
        suite.baseline(name, test_seconds=TEST_SECONDS)


@pytest.mark.parametrize("name", quick_modules())
def test_each_monitor_passes_what_asyncio_passes(baselines, monitor, name):
    place = targets.find("uringloop", monitor)
    verdict = suite.check(name, place, test_seconds=TEST_SECONDS, module_seconds=MODULE_SECONDS)
    for test_id in verdict.flaky:
        print(f"flaky: {test_id} passed only on the second try")
    if not verdict.is_good:
        pytest.fail(verdict.failures_text(), pytrace=False)

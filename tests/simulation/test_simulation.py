"""A fixed set of simulated runs, and tests that the simulation replays, and detects faults."""

import collections
import dataclasses

import pytest
from support.helpers import STOCK, URING_MONITORS

from . import simulator

SEEDS = range(1, 9)
N_CLIENTS, HOURS = 20, 21

if reason := simulator.missing():
    pytest.skip(reason, allow_module_level=True)

totals: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)


@pytest.fixture(scope="module", params=[*URING_MONITORS])
def runs(request):
    """The set on one monitor: (settings, result) of each run."""
    all_settings = [
        simulator.settings_of(seed, request.param, n_clients=N_CLIENTS, hours=HOURS) for seed in SEEDS
    ]
    return [(settings, simulator.run(settings)) for settings in all_settings]


@pytest.mark.slow
def test_nothing_is_lost_in_thousands_of_hours(runs):
    for settings, found in runs:
        assert found.failure is None, f"{settings.command()}\n{found.failure}"
    # of the 10,000 on all monitors
    assert sum(found.counts["connection_hours"] for _, found in runs) > 10_000 / len(URING_MONITORS)


@pytest.mark.slow
def test_the_set_has_every_fault(runs):
    total = collections.Counter()
    for _, found in runs:
        total.update(found.counts)
    of_rings = {"NO_BUFFERS", "END_MULTISHOT", "RACE", "CANCELED", "OVERFLOW", "ENTER", "PARTIAL_SUBMIT"}
    is_ring = runs[0][0].monitor == "io_uring"
    for name in simulator.FAULTS:
        is_expected = is_ring or name not in of_rings
        # poll(2) reports in the order of its array
        assert bool(total[f"fault {name}"]) == is_expected or name == "REORDER", name


@pytest.mark.parametrize("name", [*URING_MONITORS, STOCK])
def test_a_run_is_repeated_byte_for_byte(name):
    settings = simulator.settings_of(3, name, n_clients=4, hours=1)
    first, second = simulator.run(settings), simulator.run(settings)
    assert first.failure is second.failure is None
    assert first.digest == second.digest
    assert first.counts == second.counts
    other = simulator.run(dataclasses.replace(settings, seed=4))
    assert other.digest != first.digest


@pytest.mark.parametrize("seed", range(20, 26))
def test_programs_see_the_same_on_each_loop_whatever_the_faults(seed):
    """Each client for itself: the order of what happens at the same time may differ.

    Without resets, which clients see, and suspends, which leave them less time.
    """
    settings = simulator.settings_of(seed, STOCK, n_clients=8, hours=4)
    odds = {name: often for name, often in settings.odds.items() if name not in ("RESET", "SUSPEND")}
    settings = dataclasses.replace(settings, odds=odds)
    expected = simulator.run(dataclasses.replace(settings, odds={}))
    assert expected.failure is None
    assert sum(map(len, expected.seen)) > 8
    for name in (*URING_MONITORS, STOCK):
        found = simulator.run(dataclasses.replace(settings, monitor=name))
        assert found.failure is None, found.failure
        for ours, theirs in zip(found.seen, expected.seen, strict=True):
            # the last connection may begin before or after the end of time
            n = min(len(ours), len(theirs))
            assert ours[:n] == theirs[:n]
            assert n >= max(len(ours), len(theirs)) - 1


# It detects faults


@pytest.mark.parametrize(
    ("planted", "words"),
    [
        ("lost", ["waits for ever", "tasks are left", "does not give back", "exit status"]),
        ("changed", ["other ones came back", "which were not sent"]),
    ],
)
def test_a_bug_of_the_kernel_is_detected(planted, words):
    found = simulator.run(simulator.Settings(1, "io_uring", {}, n_clients=4, planted=planted))
    assert found.failure is not None
    assert any(word in found.failure for word in words), found.failure


def test_a_run_that_fails_is_made_smaller():
    settings = simulator.settings_of(5, "io_uring", n_clients=4, hours=2, planted="changed")
    assert simulator.run(settings).failure
    steps = []
    found = simulator.shrunk(settings, steps.append)
    assert len(found.odds) < len(settings.odds)
    assert found.n_clients < settings.n_clients
    assert simulator.run(found).failure
    assert steps

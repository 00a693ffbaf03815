"""Tests drive turns, or wait for a condition; they sleep only where they test time itself.

The rule covers `time.sleep()` and `asyncio.sleep()` of a number between 0 and a minute, in scripts as well.
"""

import re

from .documents import ROOT

TESTS = ROOT / "tests"
ENDLESS_S = 60  # a sleep that the test cancels

A_TIMER = "a timer has to fire, in this loop or under these conditions"
QUIET = "something must not happen meanwhile, and is given the time to"
BUSY = "stands for a callback, or a program, that takes its time"
POLLS = "checks again and again what another thread, process or the kernel does"

# file: (number of sleeps, the purpose of most of them)
SLEEPS = {
    "behaviour/files/test_files_streams.py": (3, QUIET),
    "behaviour/loop/test_program_clocks.py": (1, A_TIMER),
    "behaviour/loop/test_readers_writers.py": (1, QUIET),
    "behaviour/loop/test_scheduling.py": (4, A_TIMER),
    "behaviour/loop/test_selection.py": (1, A_TIMER),
    "behaviour/loop/test_shutdown.py": (1, A_TIMER),
    "behaviour/loop/test_signals.py": (4, A_TIMER),
    "behaviour/loop/test_slow_callbacks.py": (6, BUSY),
    "behaviour/loop/test_threads.py": (7, A_TIMER),
    "behaviour/nested/test_nested.py": (1, A_TIMER),
    "behaviour/nested/test_nested_ends.py": (2, A_TIMER),
    "behaviour/nested/test_nested_programs.py": (2, A_TIMER),
    "behaviour/processes/test_fork.py": (10, A_TIMER),
    "behaviour/processes/test_fork_idle.py": (4, A_TIMER),
    "behaviour/streams/test_closed_is_closed.py": (1, QUIET),
    "behaviour/streams/test_half_closed.py": (2, QUIET),
    "behaviour/streams/test_replaced_sockets.py": (1, A_TIMER),
    "behaviour/streams/test_server_shutdown.py": (1, POLLS),
    "behaviour/streams/test_servers.py": (1, BUSY),
    "conftest.py": (1, POLLS),
    "installed_wheel.py": (1, A_TIMER),
    "faults/calls.py": (1, POLLS),
    "faults/test_bad_network.py": (1, QUIET),
    "faults/test_forks_and_exits.py": (2, POLLS),
    "faults/test_stopped_processes.py": (2, QUIET),
    "glib_loops/test_applications.py": (2, A_TIMER),
    "glib_loops/test_attacks.py": (6, A_TIMER),
    "glib_loops/test_gtk_downloader.py": (2, POLLS),
    "glib_loops/test_idle.py": (2, QUIET),
    "glib_loops/test_main_loops.py": (3, A_TIMER),
    "glib_loops/test_stalls.py": (1, BUSY),
    "integrations/programs/use_ipykernel.py": (1, A_TIMER),
    "integrations/programs/use_nbclient.py": (1, A_TIMER),
    "integrations/programs/use_prompt_toolkit.py": (1, A_TIMER),
    "integrations/running.py": (2, POLLS),
    "integrations/services.py": (1, POLLS),
    "integrations/traffic.py": (1, POLLS),
    "raw/test_restricted.py": (1, A_TIMER),
    "repository/test_examples.py": (1, POLLS),
    "repository/test_grafana.py": (1, POLLS),
    "simulation/world.py": (1, A_TIMER),
    "stress/crossing_threads.py": (2, POLLS),
    "stress/integrity.py": (4, A_TIMER),
    "stress/test_storms.py": (4, POLLS),
    "stress/test_wakeups.py": (1, POLLS),
    "support/forking.py": (1, POLLS),
    "support/helpers.py": (1, POLLS),
    "support/selection_tools.py": (1, A_TIMER),
    "support/view_tools.py": (3, BUSY),
    "unit/aio/test_aio_context.py": (1, POLLS),
    "unit/aio/test_aio_poll_handlers.py": (1, BUSY),
    "unit/aio/test_collector.py": (2, BUSY),
    "unit/aio/test_qemu_aio_gsource.py": (1, A_TIMER),
    "unit/command/test_top_in_tmux.py": (2, POLLS),
    "unit/fdmon/test_adaptive_polling.py": (2, BUSY),
    "unit/test_out_of_memory.py": (1, A_TIMER),
    "unit/test_refused_calls.py": (1, A_TIMER),
    "unit/observing/planted_stalls.py": (3, BUSY),
    "unit/observing/test_stalls.py": (7, BUSY),
}

A_SLEEP = re.compile(r"\btime\.sleep\(|\basyncio\.sleep\((?P<seconds>[\d._]+)[,)]")


def n_sleeps(text):
    found = [match["seconds"] for match in A_SLEEP.finditer(text)]
    return sum(1 for seconds in found if seconds is None or 0 < float(seconds) < ENDLESS_S)


def test_nothing_sleeps_to_synchronise():
    """If a file has more sleeps than the list says: can the test drive turns, or use `until`, instead?"""
    found = {str(path.relative_to(TESTS)): n_sleeps(path.read_text()) for path in TESTS.rglob("*.py")}
    known = {file: count for file, (count, _) in SLEEPS.items()}
    ours = {
        file: count
        for file, count in found.items()
        if count
        and not file.startswith("conformance/")
        and TESTS / file != TESTS / "repository/test_sleeps.py"
    }
    different = {
        file: f"{ours.get(file, 0)} sleeps, {known.get(file, 0)} in the list"
        for file in ours.keys() | known.keys()
        if ours.get(file) != known.get(file)
    }
    assert different == {}

"""A short soak, and a test that it detects growth."""

import subprocess
import sys

import pytest

from .soak import TESTS, growth_mib, judge


def sample(rss_kib, n_fds=5):
    return {"done": 1, "rss_kib": rss_kib, "n_fds": n_fds, "in_flight": 0, "slab_kib": 0}


def test_growth_is_from_the_first_tenth_to_the_end(capsys):
    flat = [sample(30_000)] + [sample(40_000 + 10 * number) for number in range(30)]
    assert growth_mib(flat) == pytest.approx(270 / 1024, abs=0.02)
    assert judge("flat", flat) is None
    assert judge("leak", [sample(30_000 + 1000 * number) for number in range(30)]).startswith(
        "grew by 26.4 MiB"
    )
    assert judge("fds", [sample(30_000, 5 + number) for number in range(3)]) == "from 5 to 7 fds"
    assert capsys.readouterr().out.startswith("flat: RSS 29.3 to 39.3 MiB, 5 to 5 fds")


@pytest.mark.slow
def test_a_short_soak_ends_as_it_began_and_goes_on_where_it_was(monitor, tmp_path):
    def soak(*arguments):
        command = [sys.executable, "-m", "tests.stress.soak", "--monitor", monitor, "--scale", "0.002"]
        command += ["--json", str(tmp_path / "soak.json"), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=TESTS.parent, timeout=250, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    assert "messages: RSS" in soak("--phase", "messages").stdout
    again = soak()
    assert "messages" not in again.stderr  # done already
    assert all(
        f"{name}: RSS" in again.stdout
        for name in ("messages", "connections", "loops", "files", "subprocesses")
    )

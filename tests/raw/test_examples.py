"""The examples of raw requests and of poll handlers run, and print what their headers promise."""

import pathlib
import subprocess
import sys

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


def run(name, *arguments):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_a_chain_reads_files_and_reports_those_that_are_not_there(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntwo\n")
    lines = run("raw_chain.py", path, tmp_path / "missing", path).splitlines()
    assert lines[0] == f"{path}: 8 bytes, 2 lines"
    assert lines[1] == f"{tmp_path / 'missing'}: No such file or directory"
    assert lines[2] == lines[0]


def test_two_loops_wake_each_other():
    assert run("raw_wakeup.py", 200).startswith("200 round trips")


def test_two_processes_play_over_shared_memory():
    lines = run("shared_memory_pingpong.py", 200, 100_000).splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == [
        "shared memory, polling",
        "shared memory, sleeping",
    ]
    assert all("us a round trip" in line for line in lines if "is not installed" not in line)

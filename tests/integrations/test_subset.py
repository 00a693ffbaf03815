"""The rows whose packages the suite needs anyway, in the environment that runs pytest.

`make test-integrations` runs all rows, each in an environment of its own.

The last tests are about the runner: it must notice each thing that can be wrong.
"""

import dataclasses
import importlib.metadata
import importlib.util
import pathlib
import sys

import pytest

from .__main__ import allows_python
from .environments import normalised
from .rows import bare_name, read_rows
from .running import run_row

ROWS = read_rows()
SUBSET = ["uvicorn-server", "starlette", "aiohttp", "anyio"]


class ThisEnvironment:
    """The one that runs the tests."""

    bin = pathlib.Path(sys.executable).parent


def installed(row):
    names = {normalised(distribution.metadata["Name"]) for distribution in importlib.metadata.distributions()}
    return normalised(bare_name(row.requires[0])) in names


def row_here(name):
    """uvicorn has WebSocket only if a package for it is installed."""
    row = ROWS[name]
    if importlib.util.find_spec("websockets") is None and "aiohttp" not in row.requires[0]:
        return dataclasses.replace(row, traffic=[kind for kind in row.traffic if kind != "websocket"])
    return row


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBSET)
def test_a_framework_runs_on_its_line(name, monitor):
    if not installed(ROWS[name]):
        pytest.skip(f"{ROWS[name].package} is not installed")
    assert run_row(row_here(name), ThisEnvironment, monitor, {}) == ""


def script(tmp_path, source):
    """A row that runs a script."""
    path = tmp_path / "script.py"
    path.write_text(source)
    return dataclasses.replace(ROWS["aiosqlite"], command=["python", str(path)])


CHECKED = "import uringloop\nfrom inside import check_loop\nasync def main():\n    check_loop()\n"


@pytest.mark.slow
def test_a_script_that_is_in_order_passes(tmp_path):
    assert run_row(script(tmp_path, CHECKED + "uringloop.run(main())"), ThisEnvironment, "poll", {}) == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "complaint"),
    [
        ("import asyncio; asyncio.run(main())", "not the loop that was requested"),
        ("uringloop.run(main(), loop_factory=lambda: uringloop.new_event_loop('epoll'))", "not the loop"),
        ("", "0 processes reported their loop"),
        ("uringloop.run(main()); raise SystemExit(3)", "exit status 3"),
        (
            "uringloop.run(main()); import warnings; warnings.warn('odd', RuntimeWarning)",
            "RuntimeWarning: odd",
        ),
        (
            "uringloop.run(main()); import subprocess; subprocess.Popen(['sleep', '60'])",
            "processes of it are left",
        ),
    ],
)
def test_what_is_wrong_is_noticed(tmp_path, end, complaint, monkeypatch):
    monkeypatch.setattr(run_row.__globals__["Run"], "PATIENCE_S", 0.1)
    assert complaint in run_row(script(tmp_path, CHECKED + end), ThisEnvironment, "poll", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("await request.read()", ""),
        ("(await request.read())[:-1]", "bytes instead of"),
        ("(await request.read())[::-1]", "the first difference at"),
    ],
)
def test_a_wrong_answer_is_noticed(tmp_path, answer, complaint):
    if not installed(ROWS["aiohttp"]):
        pytest.skip("aiohttp is not installed")
    source = (pathlib.Path(__file__).parent / "programs" / "serve_aiohttp.py").read_text()
    path = tmp_path / "server.py"
    path.write_text(source.replace("await request.read()", answer))
    row = dataclasses.replace(
        ROWS["aiohttp"], command=["python", str(path), "{port}"], traffic=["echo", "loop"]
    )
    outcome = run_row(row, ThisEnvironment, "poll", {})
    assert complaint in outcome
    assert bool(outcome) == bool(complaint)


def test_the_range_of_pythons_is_respected():
    row = ROWS["aiohttp"]
    for condition, expected in {
        "": True,
        ">=3.11": True,
        ">=4.0": False,
        "<3.11": False,
        ">=3.11,<4.0": True,
    }.items():
        assert allows_python(dataclasses.replace(row, python=condition), sys.executable) == expected

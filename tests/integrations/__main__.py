"""Runs frameworks on uringloop, each in an environment of its own; see docs/integrations.md.

    python -m tests.integrations                      # all of them: tens of minutes, and downloads
    python -m tests.integrations --only uvicorn arq   # these rows
    python -m tests.integrations --record             # results.json and docs/integrations.md, too
    python -m tests.integrations --document           # only write the document, from results.json

Other Pythons: --python, which becomes part of the results.
"""

import argparse
import fnmatch
import pathlib
import platform
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from .document import read_results, write_document, write_results
from .environments import BUILD, Environment, SetupError, build_wheel
from .rows import MONITORS, Row, read_rows
from .running import run_row
from .services import ServiceMissing, Services

_printing = threading.Lock()


def say(text: str) -> None:
    with _printing:
        print(text, flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m tests.integrations", description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="rows, with * and ?")
    parser.add_argument("--monitors", default=",".join(MONITORS), help="default: %(default)s")
    parser.add_argument("--jobs", type=int, default=2, help="rows at a time; default: %(default)s")
    parser.add_argument("--python", default=sys.executable, help="what the environments are made with")
    parser.add_argument("--wheel", type=pathlib.Path, help="use this one instead of building the checkout")
    parser.add_argument(
        "--upgrade", action="store_true", help="make the environments afresh: newest versions"
    )
    parser.add_argument("--record", action="store_true", help="write results.json and docs/integrations.md")
    parser.add_argument("--document", action="store_true", help="write docs/integrations.md, and run nothing")
    return parser.parse_args()


def chosen(rows: dict[str, Row], patterns: list[str]) -> list[Row]:
    for pattern in patterns:
        if not fnmatch.filter(rows, pattern):
            sys.exit(f"no row is called {pattern}; there are: {', '.join(rows)}")
    return [row for name, row in rows.items() if any(fnmatch.fnmatch(name, one) for one in patterns)]


def allows_python(row: Row, python: str) -> bool:
    """Whether `python` (a path) is in the row's range, such as ">=3.12,<3.14"."""
    code = "import sys; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    version = tuple(map(int, done.stdout.split()))
    for condition in filter(None, row.python.split(",")):
        operator, major, minor = re.fullmatch(r"(>=|<)(\d+)\.(\d+)", condition.strip()).groups()
        limit = (int(major), int(minor))
        if (version >= limit) != (operator == ">="):
            return False
    return True


def check_source(row: Row, environment: Environment) -> str:
    """The line of source behind a limit is still there."""
    if not row.source:
        return ""
    path = environment.site_packages() / row.source["file"]
    if path.exists() and row.source["text"] in path.read_text():
        return ""
    return f"{row.source['file']} no longer has the line {row.source['text']!r} that explains the limit"


class Runner:
    """Runs rows, several at a time; the environment that rows share is made once."""

    def __init__(self, options: argparse.Namespace, services: Services) -> None:
        self.options, self.services = options, services
        self.wheel = (options.wheel or build_wheel(options.python)).resolve()
        self.making: dict[str, threading.Lock] = {}
        self.failed: list[str] = []

    def run(self, row: Row) -> dict[str, Any]:
        """What results.json says of a row."""
        if row.not_run or not allows_python(row, self.options.python):
            why = row.not_run or f"needs Python {row.python}"
            say(f"{row.name}: not run: {why}")
            return {"why": why}
        environment = Environment(row, self.options.python, self.wheel)
        try:
            with self.making.setdefault(environment.folder.name, threading.Lock()):
                environment.prepare(upgrade=self.options.upgrade)
            services = self.services.settings(row.services)
        except (SetupError, ServiceMissing) as error:
            say(f"{row.name}: {error}")
            self.failed.append(row.name)
            return {"why": str(error).splitlines()[0]}
        outcomes = {}
        for monitor in self.options.monitors.split(","):
            started = time.monotonic()
            wrong = check_source(row, environment) or run_row(row, environment, monitor, services)
            outcomes[monitor] = "failed" if wrong else "passed"
            say(f"{row.name} on {monitor}: {outcomes[monitor]}, {time.monotonic() - started:.1f} s")
            if wrong:
                self.failed.append(f"{row.name} on {monitor}")
                (BUILD / "logs" / f"{row.name}.{monitor}.log").write_text(wrong)
                say("    " + wrong.strip()[:3000].replace("\n", "\n    "))
        return {
            "versions": environment.versions(),
            "python": environment.python_version(),
            "kernel": ".".join(platform.release().split("-")[0].split(".")[:2]),
            "results": outcomes,
        }


def main() -> None:
    options = arguments()
    rows = read_rows()
    if options.document:
        write_document(rows, read_results())
        return
    todo = chosen(rows, options.only)
    BUILD.mkdir(parents=True, exist_ok=True)
    services = Services()
    started = time.monotonic()
    try:
        runner = Runner(options, services)
        with ThreadPoolExecutor(options.jobs) as threads:
            found = dict(zip([row.name for row in todo], threads.map(runner.run, todo), strict=True))
    finally:
        services.close()
    if options.record:
        results = {name: result for name, result in read_results().items() if name in rows} | found
        write_results(results)
        write_document(rows, results)
    n_run = sum("results" in result for result in found.values())
    print(
        f"{n_run} of {len(todo)} rows run in {time.monotonic() - started:.0f} s, failed: {len(runner.failed)}"
    )
    for name in runner.failed:
        print(f"  {name}")
    sys.exit(bool(runner.failed))


if __name__ == "__main__":
    main()

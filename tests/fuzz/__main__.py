"""Fuzz what parses, with coverage: python -m tests.fuzz [--seconds 60] [--corpus FOLDER] [TARGET ...]

Inside the build of `make fuzz-parsers` (tools/lane.sh fuzz), which has AddressSanitizer, UBSan, assertions and
libFuzzer's counters. The corpus grows from run to run. An input that fails is kept, and printed as a line for SEEDS.
"""

import argparse
import dataclasses
import pathlib
import re
import subprocess
import sys
import time

sys.path[:0] = [str(pathlib.Path(__file__).parents[1])]

from fuzz import targets  # noqa: E402

REPORT_S = 10
RSS_LIMIT_MB = 3000
TIMEOUT_S = 60  # of one input
LENGTH_MOST = 1500
STATUS = re.compile(r"^#(\d+)\s.*?cov: (\d+) ft: (\d+)")


@dataclasses.dataclass
class Outcome:
    name: str
    n_inputs: int = 0
    n_edges: int = 0
    n_features: int = 0
    seconds: float = 0.0
    failure: str = ""

    def row(self) -> str:
        result = self.failure or "no failure"
        return (
            f"| {self.name} | {self.n_inputs:,} | {self.n_edges:,} | {self.n_features:,} | {self.seconds:.0f} s "
            f"| {result} |"
        )


def run(name: str, seconds: int, corpus: pathlib.Path) -> Outcome:
    outcome = Outcome(name)
    folder, found = corpus / name, corpus / "failures"
    folder.mkdir(parents=True, exist_ok=True)
    found.mkdir(exist_ok=True)
    for number, seed in enumerate(targets.load(name).SEEDS):
        (folder / f"seed-{number}").write_bytes(seed)
    before = set(found.iterdir())
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.fuzz.one", name, str(folder)]
    command += [f"-max_total_time={seconds}", f"-rss_limit_mb={RSS_LIMIT_MB}", f"-timeout={TIMEOUT_S}"]
    command += [f"-max_len={LENGTH_MOST}", f"-artifact_prefix={found}/{name}-"]
    began = reported = time.monotonic()
    with (
        (corpus / f"{name}.log").open("w") as log,
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=log, text=True, errors="replace") as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            log.write(line)
            if status := STATUS.match(line):
                outcome.n_inputs, outcome.n_edges, outcome.n_features = map(int, status.groups())
            if time.monotonic() - reported >= REPORT_S:
                reported = time.monotonic()
                print(
                    f"  {name}: {reported - began:.0f} of {seconds} s, {outcome.n_inputs:,} inputs, "
                    f"{outcome.n_edges:,} edges",
                    file=sys.stderr,
                    flush=True,
                )
    outcome.seconds = time.monotonic() - began
    if process.returncode:
        inputs = sorted(set(found.iterdir()) - before)
        outcome.failure = f"status {process.returncode}: {corpus / name}.log"
        for path in inputs:
            print(f"{name}.check({path.read_bytes()!r})", flush=True)
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: {', '.join(targets.NAMES)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: %(default)s)")
    parser.add_argument("--corpus", type=pathlib.Path, default=pathlib.Path("build/fuzz"))
    options = parser.parse_args()
    if unknown := set(options.targets) - set(targets.NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    outcomes = [run(name, options.seconds, options.corpus) for name in options.targets or targets.available()]
    print("| target | inputs | edges | features | time | result |\n|---|---|---|---|---|---|")
    for outcome in outcomes:
        print(outcome.row())
    return int(any(outcome.failure for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())

"""Let the model checker look at the notify protocol, as it is and broken on purpose.

    python docs/spin/check.py [VARIANT ...]

Needs `spin` (Debian: spin) and a C compiler. Says for each variant what was found; the exit status is 0 if
nothing is wrong with the protocol and each broken variant was caught. README.md says what to read into it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

MODEL = Path(__file__).resolve().parent / "notify.pml"

LOST = "a wake-up is lost"
RESTLESS = "the loop never sleeps"
NOTHING = "nothing"

# Variant -> (macros of the model, what the checker must find). One callback for each producer is enough to find a
# loop that never sleeps, and two take ten times as long.
VARIANTS = {
    "as it is": ((), NOTHING),
    "as it is, does it rest": (("CALLBACKS=1",), NOTHING),
    "published after notifying": (("PUBLISHED_LATE",), LOST),
    "notify_me read before notified is set": (("RUNG_FIRST",), LOST),
    "no barrier in notify": (("NO_BARRIER_IN_NOTIFY",), LOST),
    "notify_me set after the check": (("CHECK_FIRST",), LOST),
    "no barrier in begin_wait": (("NO_BARRIER_IN_BEGIN_WAIT",), LOST),
    "no barrier in end_wait": (("NO_BARRIER_IN_END_WAIT",), LOST),
    "notified cleared after the look at the queue": (("CLEARED_LATE",), LOST),
    "a hit while looking is taken for delivered": (("HIT_SLEEPS",), LOST),
    "no look at the queue after a signal's handler": (("NO_LOOK_AFTER_SIGNALS",), LOST),
    "notified is never cleared": (("NEVER_CLEARED", "CALLBACKS=1"), RESTLESS),
}


def missing_tools() -> str | None:
    """Why this cannot run here, or None."""
    if shutil.which("spin") is None:
        return "the model checker spin is not installed (Debian: spin)"
    return None if _compiler() else "no C compiler"


def _compiler() -> str | None:
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")


def check(variant: str, timeout_s: float = 300) -> tuple[str, int]:
    """What the checker finds in this variant, and how many states it has seen; RuntimeError where it did not finish."""
    macros, expected = VARIANTS[variant]
    looks_for_rest = expected == RESTLESS or "rest" in variant
    compiler = _compiler()
    assert compiler is not None
    with tempfile.TemporaryDirectory() as folder:

        def call(*command: str) -> str:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=timeout_s, check=False
            )
            if done.returncode:
                raise RuntimeError(f"{command}: {done.stdout}{done.stderr}")
            return done.stdout

        call("spin", "-a", *(f"-D{macro}" for macro in macros), str(MODEL))
        # Memory, not time, is what a small machine has too little of.
        options = ("-O2", "-w", "-DCOLLAPSE", "-DNP" if looks_for_rest else "-DSAFETY")
        call(*compiler.split(), *options, "-o", "pan", "pan.c")
        # -E: the loop may be asleep in the end; that it is so for a reason is what Rest asserts.
        out = call("./pan", "-E", "-m100000", *(["-l"] if looks_for_rest else []))
    n_states = re.search(r"(\d+) states, stored", out)
    if n_states is None or "max search depth too small" in out:
        raise RuntimeError(out)
    if "assertion violated" in out:
        found = LOST
    elif "non-progress cycle (" in out:
        found = RESTLESS
    elif "errors: 0" in out:
        found = NOTHING
    else:
        raise RuntimeError(out)
    return found, int(n_states[1])


def main() -> int:
    reason = missing_tools()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 2
    is_good = True
    for variant in sys.argv[1:] or VARIANTS:
        if variant not in VARIANTS:
            print(f"no such variant: {variant!r}; there are: {', '.join(VARIANTS)}", file=sys.stderr)
            return 2
        found, n_states = check(variant)
        is_right = found == VARIANTS[variant][1]
        is_good = is_good and is_right
        print(f"{'ok' if is_right else 'WRONG'}  {variant}: {found} ({n_states:,} states)", flush=True)
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())

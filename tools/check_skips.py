"""Fail if a test was skipped on io_uring although io_uring works here.

    python tools/check_skips.py build/tests.xml

A suite that silently skips its main subject is green and worthless. A test that was also skipped on another
monitor, with the same message, has a reason other than io_uring: it is listed, not counted. No test at all on
io_uring is a failure.
"""

import sys
import xml.etree.ElementTree as ElementTree

MONITOR = "io_uring"


def why_io_uring_fails() -> str | None:
    """The reason why no loop on io_uring can be made, or None."""
    import uringloop

    try:
        loop = uringloop.new_event_loop(fdmon=MONITOR)
    except OSError as error:
        return str(error)
    try:
        return None if loop.fdmon == MONITOR else f"got {loop.fdmon}: {loop.fdmon_reason}"
    finally:
        loop.close()


def read_results(path: str) -> dict[str, str | None]:
    """Each test's id and why it was skipped, None if it was not; an expected failure is not a skip."""
    results = {}
    for case in ElementTree.parse(path).iter("testcase"):
        skipped = case.find("skipped")
        is_skip = skipped is not None and "xfail" not in skipped.get("type", "")
        name = f"{case.get('classname')}.{case.get('name')}"
        results[name] = skipped.get("message", "") if is_skip else None
    return results


def skipped_elsewhere(name: str, reason: str, results: dict[str, str | None]) -> bool:
    """Whether the same test was skipped on another monitor for the same reason."""
    from uringloop.fdmon.select import NAMES

    return any(results.get(name.replace(MONITOR, other)) == reason for other in NAMES if other != MONITOR)


def main() -> int:
    failure = why_io_uring_fails()
    if failure is not None:
        print(f"io_uring does not work here ({failure}): skipping on it is right")
        return 0
    try:
        results = read_results(sys.argv[1])
    except (OSError, ElementTree.ParseError) as error:
        print(f"no results of a finished test run: {error}")
        return 1
    on_io_uring = {name: reason for name, reason in results.items() if MONITOR in name}
    skips = {name: reason for name, reason in on_io_uring.items() if reason is not None}
    excused = {name for name, reason in skips.items() if skipped_elsewhere(name, reason, results)}
    for name, reason in skips.items():
        print(f"{'skipped on every monitor' if name in excused else 'SKIPPED ON io_uring'}: {name}: {reason}")
    n_run = len(on_io_uring) - len(skips)
    print(
        f"io_uring works here; {n_run} tests ran on it, {len(skips) - len(excused)} were skipped on it alone"
    )
    return 0 if n_run > 0 and len(skips) == len(excused) else 1


if __name__ == "__main__":
    sys.exit(main())

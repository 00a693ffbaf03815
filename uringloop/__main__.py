"""`python -m uringloop COMMAND`; each command is a module of uringloop/command/, `doctor` without one."""

from __future__ import annotations

import argparse
import sys

from . import __version__
from .command import doctor


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m uringloop", description="uringloop, an asyncio event loop."
    )
    parser.add_argument("--version", action="version", version=f"uringloop {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    what = "which monitor runs here, and why (the default)"
    doctor.add_arguments(commands.add_parser("doctor", help=what, description=what))
    words = sys.argv[1:]
    return doctor.main(parser.parse_args(["doctor", *words] if words in ([], ["--json"]) else words))


if __name__ == "__main__":
    sys.exit(main())

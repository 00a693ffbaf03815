"""`python -m uringloop COMMAND`; each command is a module of uringloop/command/, `doctor` without one."""

from __future__ import annotations

import argparse
import importlib
import sys

from . import __version__

COMMANDS = {
    "doctor": "which monitor runs here, and why (the default)",
    "run": "run a program whose loops are uringloop's",
    "top": "what the loops of another process do now, live",
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m uringloop", description="uringloop, an asyncio event loop."
    )
    parser.add_argument("--version", action="version", version=f"uringloop {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    words = sys.argv[1:]
    if words in ([], ["--json"]):
        words = ["doctor", *words]
    for name, what in COMMANDS.items():
        of_command = commands.add_parser(name, help=what, description=what)
        if words[0] == name:  # what others need is not imported
            command = importlib.import_module(f".command.{name}", __package__)
            command.add_arguments(of_command)
    arguments = parser.parse_args(words)
    status: int = command.main(arguments)
    return status


if __name__ == "__main__":
    sys.exit(main())

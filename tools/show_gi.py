"""Make the system's PyGObject, and nothing else of the system, visible in this virtual environment.

    VENV/bin/python tools/show_gi.py PYTHON

PYTHON is the interpreter that the environment was made with. A link to its package `gi` is put into site-packages,
unless one can be imported already. Nothing is done where PYTHON has none: the GLib tests are skipped there.
"""

import importlib.util
import subprocess
import sys
import sysconfig
from pathlib import Path


def main() -> None:
    if importlib.util.find_spec("gi") is not None:
        return
    code = "import sys, gi, gi._gi; print(sys.version_info[:2]); print(gi.__path__[0])"
    found = subprocess.run([sys.argv[1], "-c", code], capture_output=True, text=True)
    if found.returncode != 0:
        return
    version, folder = found.stdout.splitlines()
    if version == str(sys.version_info[:2]):
        Path(sysconfig.get_path("platlib"), "gi").symlink_to(folder)


if __name__ == "__main__":
    main()

"""Make the system's PyGObject, but no other system package, visible in this virtual environment.

    VENV/bin/python tools/show_gi.py PYTHON

PYTHON is the interpreter with which the environment was made. A link to its package `gi` is put into site-packages,
unless `gi` can already be imported. If PYTHON has none, nothing is done, and the GLib tests are skipped.
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

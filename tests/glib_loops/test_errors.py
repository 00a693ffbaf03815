"""A GLib that is missing, too old, or not PyGObject's: in processes of their own, with a PyGObject made of clay."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

FAKE_PYGOBJECT = """
import sys, types

class MainContext:
    __slots__ = ("pointer",)  # where PyGObject keeps the GMainContext *

    @classmethod
    def default(cls):
        made = cls()
        made.pointer = made
        return made

gi, repository = types.ModuleType("gi"), types.ModuleType("gi.repository")
repository.GLib = types.SimpleNamespace(MainContext=MainContext)
sys.modules["gi"], sys.modules["gi.repository"] = gi, repository
import uringloop.glib
for make in (uringloop.glib.new_event_loop, lambda: uringloop.glib.attach(uringloop.AioContext("poll"))):
    for _ in range(2):
        try:
            make()
        except ImportError as error:
            print(error)
"""


def messages(library_folder, script=FAKE_PYGOBJECT):
    """What four attempts say."""
    environment = dict(os.environ, LD_LIBRARY_PATH=str(library_folder))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        timeout=20,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_no_glib(tmp_path):
    (tmp_path / "libglib-2.0.so.0").write_bytes(b"")
    said = "uringloop.glib needs GLib 2.36 or newer: libglib-2.0.so.0 was not found"
    assert messages(tmp_path) == [said] * 4


@pytest.mark.skipif(shutil.which("gcc") is None, reason="makes a library with gcc")
def test_a_glib_without_what_is_needed(tmp_path):
    library = tmp_path / "libglib-2.0.so.0"
    source = "void *g_main_context_default(void) { return 0; }"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True, timeout=60)
    said = "uringloop.glib needs GLib 2.36 or newer: g_main_context_ref was not found"
    assert messages(tmp_path) == [said] * 4


def test_a_pygobject_with_another_glib(tmp_path):
    pytest.importorskip("gi", reason="PyGObject is not installed for this Python, and perhaps no GLib")
    said = "uringloop.glib: PyGObject uses another GLib than libglib-2.0.so.0"
    assert messages(tmp_path) == [said] * 4


def test_no_pygobject(tmp_path):
    script = (
        "import sys\nsys.modules['gi'] = None\n" + FAKE_PYGOBJECT[FAKE_PYGOBJECT.index("import uringloop") :]
    )
    said = "uringloop.glib needs PyGObject: pip install uringloop[glib], or the package python3-gi"
    assert messages(tmp_path, script) == [said] * 4

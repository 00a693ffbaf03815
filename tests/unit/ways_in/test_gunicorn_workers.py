"""uringloop.gunicorn: classes derived from those of other packages, which stand-ins replace here.

tests/integrations runs gunicorn itself.
"""

import pathlib

import pytest

NEEDS = {
    "AiohttpWorker": "aiohttp",
    "AsgiWorker": "gunicorn 24 or newer",
    "TornadoWorker": "tornado",
    "UvicornWorker": "uvicorn-worker",
}

BASE = """
import asyncio

class Config(dict):
    settings = property(lambda self: self)
    set = dict.__setitem__

class {name}:
    cfg = Config({settings})
    {more}
    def init_process(self):
        loop = asyncio.new_event_loop()
        print(type(loop).__module__, dict(self.cfg), getattr(self, "CONFIG_KWARGS", None))
        loop.close()
"""

USE = "import uringloop.gunicorn as workers\nworkers.{name}().init_process()\n"


def stand_in(python, path, name, *, settings="", more=""):
    for folder in pathlib.PurePath(path).parents[:-1]:
        python.write(f"{folder}/__init__.py", "")
    python.write(path, BASE.format(name=name, settings=settings, more=more))


@pytest.mark.parametrize(
    ("path", "base", "name"),
    [
        ("aiohttp/worker.py", "GunicornWebWorker", "AiohttpWorker"),
        ("uvicorn_worker.py", "UvicornWorker", "UvicornWorker"),
    ],
)
def test_a_worker_process_is_on_uringloop(python, path, base, name):
    stand_in(python, path, base)
    assert python.script(USE.format(name=name)) == "uringloop.eventloop.loop {} None\n"


def test_a_loop_that_cannot_be_made_fails_before_the_worker_has_booted(python):
    """gunicorn replaces a worker that dies later without end."""
    stand_in(python, "uvicorn_worker.py", "UvicornWorker")
    late = "\nUvicornWorker.init_process = lambda self: print('booted')\n"
    path = python.folder / "uvicorn_worker.py"
    path.write_text(path.read_text() + late)
    source = USE.format(name="UvicornWorker")
    lines = [
        "try:",
        *(f"    {line}" for line in source.splitlines()),
        "except ValueError as error:",
        "    print(error)",
    ]
    source = "\n".join(lines)
    assert "URINGLOOP_FDMON must be one of" in python.script(source, URINGLOOP_FDMON="nonsense")


def test_uvicorns_settings_are_kept(python):
    """Except for the loop, which would be uvloop's if that is installed."""
    stand_in(
        python, "uvicorn_worker.py", "UvicornWorker", more="CONFIG_KWARGS = {'loop': 'auto', 'http': 'h11'}"
    )
    assert python.script(USE.format(name="UvicornWorker")).endswith("{} {'loop': 'none', 'http': 'h11'}\n")


def test_an_old_uvicorn_has_the_worker_itself(python):
    python.write("uvicorn_worker.py", "raise ModuleNotFoundError('uvicorn_worker')")
    stand_in(python, "uvicorn/workers.py", "UvicornWorker")
    assert python.script(USE.format(name="UvicornWorker")).startswith("uringloop.eventloop.loop")


def test_gunicorns_own_worker_makes_asyncios_default(python):
    stand_in(python, "gunicorn/workers/gasgi.py", "ASGIWorker", settings="asgi_loop='auto'")
    out = python.script(USE.format(name="AsgiWorker"))
    assert out == "uringloop.eventloop.loop {'asgi_loop': 'asyncio'} None\n"


def test_a_class_is_made_once_and_named(python):
    stand_in(python, "uvicorn_worker.py", "UvicornWorker")
    source = """
        from uringloop.gunicorn import UvicornWorker
        import uringloop.gunicorn as workers, uvicorn_worker
        print(workers.UvicornWorker is UvicornWorker, issubclass(UvicornWorker, uvicorn_worker.UvicornWorker))
        print(UvicornWorker.__module__, UvicornWorker.__qualname__)
    """
    assert python.script(source).split() == ["True", "True", "uringloop.gunicorn", "UvicornWorker"]


@pytest.mark.parametrize(("name", "package"), [*NEEDS.items()])
def test_a_missing_package_is_named(python, name, package):
    for module in ("aiohttp", "gunicorn", "uvicorn", "uvicorn_worker"):
        python.write(f"{module}.py", f"raise ModuleNotFoundError('no {module}')\n")
    done = python.run("-c", f"from uringloop.gunicorn import {name}")
    assert f"\nImportError: uringloop.gunicorn.{name} needs {package}: no " in done.stderr


def test_the_names(python):
    source = """
        import uringloop.gunicorn as workers
        print(*(name for name in dir(workers) if not name.startswith("_")))
        print(*workers.__all__, hasattr(workers, "TrioWorker"))
    """
    assert python.script(source).split() == [*NEEDS, *NEEDS, "False"]

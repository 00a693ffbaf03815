"""`python -m uringloop run APP ...` is `python APP ...` with other loops."""

import os
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest

REPORT = """
import asyncio, sys

async def kind():
    loop = asyncio.get_running_loop()
    return type(loop).__module__.partition(".")[0], getattr(loop, "fdmon", None)

def report():
    main = sys.modules["__main__"]
    spec = main.__spec__ and (main.__spec__.name, main.__spec__.origin)
    print(sys.argv, sys.path, main.__name__, main.__file__, spec, main.__package__, sorted(vars(main)))
"""

ENDS = {
    "well": "pass",
    "status": "sys.exit(7)",
    "text": "sys.exit('no')",
    "error": "def fail():\n    raise ValueError('no')\nfail()",
    "interrupt": "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nfor _ in range(10**9): pass",
    "signal": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
    "syntax": "1 +",
}

RUN = ("-m", "uringloop", "run")


def both(python, *words):
    """The results without and with uringloop."""
    return python.run(*words), python.run(*RUN, *words)


def facts(done):
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def programs(python):
    """The same program as file, module, package, folder and zip file."""
    source = REPORT + "report()\n"
    python.write("script.py", source)
    for folder in ("package", "folder"):
        python.write(f"{folder}/__init__.py", "")
        python.write(f"{folder}/__main__.py", source)
    with zipfile.ZipFile(python.folder / "packed.zip", "w") as packed:
        packed.writestr("__main__.py", source)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    "words",
    [
        ["script.py", "--help", "--", "-m", "two words"],
        ["script.py", "--", "-a", "--", "b"],
        ["script.py", "--"],
        ["-m", "package", "--", "x"],
        ["./script.py"],
        ["-m", "script", "--fdmon", "epoll"],
        ["-m", "package", "-x"],
        ["-m", "package.__main__"],
        ["folder", "run"],
        ["packed.zip"],
    ],
)
def test_the_program_sees_what_python_alone_shows_it(python, words):
    alone, ours = both(python, *words)
    assert facts(ours) == facts(alone)
    assert ours.returncode == 0


@pytest.mark.parametrize("name", ENDS)
def test_it_ends_as_under_python_alone(python, name):
    python.write("ending.py", f"import sys\nprint('begins')\n{ENDS[name]}\n")
    for words in (["ending.py"], ["-m", "ending"]):
        alone, ours = both(python, *words)
        assert facts(ours) == facts(alone)
    if name == "signal":
        assert ours.returncode == -signal.SIGTERM


@pytest.mark.parametrize("closed", [1, 2])
def test_a_closed_stream_is_no_obstacle(python, closed):
    python.write("script.py", f"import os\nos.write({3 - closed}, b'runs')")
    command = f'exec "$@" {closed}>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", command, "sh", sys.executable, *RUN, "script.py"],
        env=python.environment,
        cwd=python.folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert (done.stdout, done.stderr)[2 - closed] == b"runs"


def test_its_loops_are_uringloops(python):
    python.write("script.py", REPORT + "print(*asyncio.run(kind()))\n")
    assert python.out(*RUN, "script.py").split()[0] == "uringloop"
    assert python.out(*RUN, "--fdmon", "poll", "script.py").split() == ["uringloop", "poll"]


def test_options_of_python_are_kept(python):
    source = "import sys\nprint(sys.flags, sys._xoptions, sys.warnoptions)\n"
    python.write("script.py", source)
    for options in (["-X", "dev", "-O", "-W", "ignore"], ["-Om"], ["-m"], ["-muringloop"], ["-Bmuringloop"]):
        of_python = [option.removesuffix("uringloop") for option in options]
        if of_python[-1].endswith("m"):
            of_python[-1] = of_python[-1].removesuffix("m")
        of_python = [option for option in of_python if option != "-"]
        module = [] if options[-1].endswith("uringloop") else ["uringloop"]
        module = module if options[-1].endswith(("m", "uringloop")) else ["-m", "uringloop"]
        assert python.out(*options, *module, "run", "script.py") == python.out(*of_python, "script.py")


def test_as_uvloop(python):
    python.write("script.py", "import uvloop\nprint(uvloop.Loop.__module__)\n")
    assert python.out(*RUN, "--as-uvloop", "script.py") == "uringloop.eventloop.loop\n"


def test_child_processes_are_on_uringloop(python):
    python.write(
        "script.py",
        "import os\nprint(os.environ['URINGLOOP_AS'], os.environ.get('URINGLOOP_FDMON'))\n"
        "import subprocess, sys\nsys.stdout.flush()\n"
        "subprocess.run([sys.executable, 'child.py'], check=True)\n",
    )
    python.write("child.py", REPORT + "print(asyncio.run(kind())[0])\n")
    assert python.out(*RUN, "script.py").split() == ["asyncio", "None", "uringloop"]
    options = ("--as-uvloop", "--fdmon", "epoll")
    assert python.out(*RUN, *options, "script.py").split() == ["asyncio,uvloop", "epoll", "uringloop"]
    assert python.out(*RUN, "script.py", URINGLOOP_AS="uvloop").split()[0] == "uvloop,asyncio"


# Installed commands


@pytest.fixture
def command(python):
    """command(name, lines): an executable file in a folder of the PATH."""
    folder = python.folder.parent / "bin"
    folder.mkdir()

    def write(name, source):
        path = folder / name
        path.write_text(source)
        path.chmod(0o755)
        return path

    return write


@pytest.mark.parametrize(
    "start",
    [
        "#!/usr/bin/python3\n",
        "#!/usr/bin/env python3.99\n",
        "#!/bin/sh\n'''exec' /far/away/bin/python \"$0\" \"$@\"\n' '''\n",
    ],
)
def test_a_command_of_the_path(python, command, start):
    path = command("serve", start + REPORT + "print(sys.argv, asyncio.run(kind())[0])\n")
    assert python.out(*RUN, "serve", "--now") == f"{[str(path), '--now']} uringloop\n"


def test_a_folder_is_no_program_without_main(python, command):
    """A project often has a folder with the name of a command."""
    (python.folder / "serve").mkdir()
    command("serve", "#!/usr/bin/python3\nprint('served')\n")
    assert python.out(*RUN, "serve") == "served\n"


def refusal(python, *words, **variables):
    done = python.run(*RUN, *words, **variables)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.removeprefix("python -m uringloop run: ")


def test_a_command_that_is_not_python_is_refused(python, command):
    path = command("tool", "#!/bin/sh\necho python\n")
    expected = (
        f"{path} is not a Python program; if it starts Python, set URINGLOOP_AS in its environment instead\n"
    )
    assert refusal(python, "tool") == expected
    path.unlink()
    shutil.copy("/bin/sh", path)
    assert refusal(python, "tool") == expected


def test_an_unknown_program_is_refused(python):
    expected = "there is no file 'nothing', and no command of that name beside this Python or on the PATH\n"
    assert refusal(python, "nothing") == expected


def test_an_unknown_monitor_is_refused(python):
    assert "argument --fdmon: invalid choice: 'select'" in refusal(python, "--fdmon", "select", "script.py")


def test_a_python_that_would_not_read_the_pth_is_refused(python):
    """Otherwise the program would run on asyncio's loop, and not know."""
    python.write("script.py", "print('ran')\n")
    done = python.run("-S", *RUN, "script.py", PYTHONPATH=os.pathsep.join(python.packages()))
    assert (done.returncode, done.stdout) == (2, "")
    assert "this Python does not read uringloop.pth: install uringloop with pip" in done.stderr

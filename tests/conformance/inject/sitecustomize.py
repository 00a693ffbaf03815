"""Installs the loop under test in every Python process of a run.

This folder is first in PYTHONPATH, so each worker and each child that a test starts loads this file.  The
redirection waits for the import of `asyncio`: importing it here would slow down, and change, children without it.
"""

import os
import sys

if os.environ.get("CONFORMANCE_LOOP"):
    from importlib.machinery import PathFinder

    class _ApplyAfterAsyncio:
        """Finder for `asyncio`, used once: it is loaded as usual, then its loop factories are redirected."""

        @classmethod
        def find_spec(cls, name, path=None, target=None):
            if name != "asyncio":
                return None
            sys.meta_path.remove(cls)
            spec = PathFinder.find_spec(name, path)
            if spec is None or spec.loader is None:
                return spec
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                import conformance_loop

                conformance_loop.apply()

            spec.loader.exec_module = exec_module
            return spec

    sys.meta_path.insert(0, _ApplyAfterAsyncio)

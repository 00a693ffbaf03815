"""Puts the loop under test in place in every Python process of a run.

This folder leads PYTHONPATH, so each worker and each child that a test starts loads this file.  The
redirection has to wait for `asyncio`: importing it here would slow down, and change, children without it.
"""

import os
import sys

if os.environ.get("CONFORMANCE_LOOP"):
    from importlib.machinery import PathFinder

    class _ApplyAfterAsyncio:
        """Finder for `asyncio`, once: lets it load as ever, then redirects its loop factories."""

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

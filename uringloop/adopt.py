"""uringloop for programs that know only asyncio or uvloop: as the default loop of a process, as what `import uvloop`
finds.

`python -m uringloop run` and the environment variable URINGLOOP_AS do the same from outside of a program; see
docs/running.md.
"""

from _uringloop_startup import make_default, provide_uvloop

__all__ = ["make_default", "provide_uvloop"]

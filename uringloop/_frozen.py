"""Every import that PyInstaller, cx_Freeze, Nuitka and modulefinder cannot see, for them to read.

They follow the imports in the bytecode of Python modules; a compiled module has none, so modules that only compiled
modules import, or whose names are made at run time, would be missing in a frozen program.  The functions are never
called: they are read.  A build without liburing lacks some of these, about which those tools only warn.

uringloop.glib is not here: it would drag PyGObject into every program.  Its own __init__ names what it needs.
"""

# ruff: noqa: F401


def _seen_of_python() -> None:
    import _asyncio
    import _socket
    import _ssl
    import _thread
    import asyncio.constants
    import asyncio.coroutines
    import asyncio.events
    import asyncio.exceptions
    import asyncio.format_helpers
    import asyncio.futures
    import asyncio.log
    import asyncio.streams
    import asyncio.tasks
    import atexit
    import collections
    import contextvars
    import errno
    import functools
    import inspect
    import logging
    import operator
    import os
    import selectors
    import socket
    import ssl
    import sys
    import sysconfig
    import threading
    import time
    import traceback
    import types
    import warnings
    import weakref


def _seen_of_ours() -> None:
    # an import of cffi's compiled module
    import _cffi_backend  # type: ignore[import-untyped]

    from . import exceptions, files, gcpolicy
    from .aio import (
        bottom_halves,
        collector,
        context_core,
        foreign_turns,
        handles,
        measured_polling,
        notifier,
        owner,
        poll_handlers,
        program,
        ready,
        recorder,
        reporter,
        timers,
    )
    from .aiocontext import context, event_notifier, statistics
    from .eventloop import raw
    from .eventloop.base import incoming, loop_core, views, watching
    from .eventloop.nested import levels
    from .fdmon import adaptive_polling, base, epoll, io_uring, poll, select
    from .files import ring_requests
    from .group import balancer, loop_group, member, server
    from .liburing import _ffi, enums, features, probing, refusal
    from .observing import describing, places, recording, stalls, summaries, view, watchdog
    from .requests import awaiting, checks, registered, submit
    from .requests import request as raw_request
    from .support import errors, references
    from .transports import addresses, flow, plain, stock, trsock
    from .transports import base as transport_base
    from .transports.datagram import classes as datagram_classes
    from .transports.datagram import packets
    from .transports.datagram import transport as datagram_transport
    from .transports.stream import accept, classes, endpoint, ring_wire, transport, wire
    from .transports.tls import classes as tls_classes
    from .transports.tls import engine as tls_engine
    from .transports.tls import protocol
    from .transports.tls import transport as tls_transport
    from .uring import buffers, completions, engine, request, ring, sendprobe

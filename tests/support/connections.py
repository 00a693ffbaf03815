"""Stream connections of both kinds, for loops that do not run."""

import pytest

from .helpers import Recorder, connect_unshared, run, socketpair, turn_until

KINDS = pytest.mark.parametrize("kind", ["tcp", "unix"])


def connect(loop, kind="tcp", protocol=None):
    """Connect on a loop that does not run; return (protocol, peer)."""
    near, peer = socketpair(kind)
    peer.settimeout(10)
    protocol = protocol or Recorder()
    run(loop, connect_unshared(loop, lambda: protocol, near))
    return protocol, peer


def end(loop, protocol, peer):
    """Close the peer, and run the loop until the connection is lost."""
    peer.close()
    if not loop.is_closed():
        protocol.transport.abort()
        turn_until(loop, protocol.lost.is_set)

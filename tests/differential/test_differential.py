"""Random programs on stock asyncio and on each monitor show user code the same; and a planted bug is found."""

import functools

import pytest
from support.helpers import STOCK, inside_glib, make_loop

from .comparing import Difference, compare, random_program, run_on, smallest
from .machines import MACHINES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(inside_glib, reason="GLib's turns are compared with asyncio's elsewhere"),
]

N_PROGRAMS = {
    "loop": 150,
    "transport": 60,
    "streams": 60,
    "servers": 40,
    "datagrams": 60,
    "tls": 30,
    "requests": 40,
    "nested": 60,
    "context": 100,
}
N_PROGRAMS_WITH_A_BUG = 400


@functools.cache
def of_asyncio(name, number):
    """A program and its trace on stock asyncio, for all monitors."""
    program = random_program(MACHINES[name], number)
    return program, run_on(MACHINES[name], program, STOCK)


@pytest.mark.parametrize("name", MACHINES)
def test_random_programs_see_what_asyncio_shows(monitor, name):
    if monitor not in MACHINES[name].monitors:
        pytest.skip("raw requests need io_uring, and cffi")
    for number in range(N_PROGRAMS[name]):
        program, expected = of_asyncio(name, number)
        compare(MACHINES[name], program, [monitor], expected=expected)


# Bugs, each planted in a loop


def late_timers(loop):
    loop.call_later = lambda delay, *arguments, **keywords: type(loop).call_later(
        loop, delay + 0.5, *arguments, **keywords
    )


def low_limits(loop):
    """Connections pause their protocols too early."""

    async def connect(*arguments, **keywords):
        transport, protocol = await type(loop)._create_connection_transport(loop, *arguments, **keywords)
        transport.set_write_buffer_limits(high=0)
        return transport, protocol

    loop._create_connection_transport = connect


def deaf_connections(loop):
    """Connections do not read."""

    async def connect(*arguments, **keywords):
        transport, protocol = await type(loop)._create_connection_transport(loop, *arguments, **keywords)
        transport.pause_reading()
        return transport, protocol

    loop._create_connection_transport = connect


def eager_servers(loop):
    def create(method, *arguments, start_serving, **keywords):
        return method(loop, *arguments, start_serving=True, **keywords)

    loop.create_server = functools.partial(create, type(loop).create_server)
    loop.create_unix_server = functools.partial(create, type(loop).create_unix_server)


def lossy_endpoints(loop):
    """Endpoints lose what is sent without an address."""

    async def create(*arguments, **keywords):
        transport, protocol = await type(loop).create_datagram_endpoint(loop, *arguments, **keywords)
        send = transport.sendto
        transport.sendto = lambda data, address=None: send(data, address) if address else None
        return transport, protocol

    loop.create_datagram_endpoint = create


BUGS = {
    "loop": late_timers,
    "transport": low_limits,
    "streams": deaf_connections,
    "servers": eager_servers,
    "datagrams": lossy_endpoints,
    "tls": low_limits,
}


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found_and_its_program_made_smaller(name):
    def new_loop(monitor):
        loop = make_loop(monitor)
        if monitor != STOCK:
            BUGS[name](loop)
        return loop

    machine = MACHINES[name]
    with pytest.raises(Difference) as caught:
        for number in range(N_PROGRAMS_WITH_A_BUG):
            compare(machine, random_program(machine, number), ["epoll"], new_loop)
    program = caught.value.program
    smaller = smallest(machine, program, ["epoll"], new_loop)
    assert len(repr(smaller)) <= len(repr(program))
    with pytest.raises(Difference):
        compare(machine, smaller, ["epoll"], new_loop)
    compare(machine, smaller, ["epoll"])

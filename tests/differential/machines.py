"""All machines, by name."""

from . import (
    context_machine,
    datagrams_machine,
    loop_machine,
    nested_machine,
    requests_machine,
    servers_machine,
    streams_machine,
    tls_machine,
    transport_machine,
)

MODULES = (
    loop_machine,
    transport_machine,
    streams_machine,
    servers_machine,
    datagrams_machine,
    tls_machine,
    requests_machine,
    nested_machine,
    context_machine,
)
MACHINES = {module.MACHINE.name: module.MACHINE for module in MODULES}

"""sentry-sdk: an exception in a task becomes an event, with the breadcrumbs of its own context."""

import asyncio

import sentry_sdk
from inside import check_loop
from sentry_sdk.integrations.asyncio import AsyncioIntegration

import uringloop

events = []


async def fail(number):
    sentry_sdk.set_tag("number", number)
    await asyncio.sleep(0)
    raise ValueError(f"failure {number}")


async def main():
    check_loop()
    sentry_sdk.init(
        dsn="https://key@localhost/1",
        integrations=[AsyncioIntegration()],
        before_send=lambda event, hint: events.append(event),
    )
    results = await asyncio.gather(*(fail(number) for number in range(5)), return_exceptions=True)
    assert [str(result) for result in results] == [f"failure {number}" for number in range(5)]


uringloop.run(main())
seen = {event["exception"]["values"][-1]["value"]: event["tags"]["number"] for event in events}
assert seen == {f"failure {number}": number for number in range(5)}

"""psycopg 3: rows, COPY, notifications, concurrent connections."""

import asyncio
import os

import psycopg
from inside import blob, check_loop

import uringloop

WHERE = f"host=127.0.0.1 port={os.environ['POSTGRES_PORT']} user=loop dbname=postgres"


async def one(number):
    async with await psycopg.AsyncConnection.connect(WHERE) as connection:
        answer = await connection.execute("SELECT %s::bytea, %s::int", (blob(number * 30_000), number))
        assert await answer.fetchone() == (blob(number * 30_000), number)


async def main():
    check_loop()
    async with await psycopg.AsyncConnection.connect(WHERE, autocommit=True) as connection:
        async with connection.cursor().copy("COPY (SELECT generate_series(1, 50000)) TO STDOUT") as copy:
            assert [row[0] async for row in copy.rows()] == [str(n) for n in range(1, 50001)]
        await connection.execute("LISTEN channel")
        await connection.execute("NOTIFY channel, 'payload'")
        async for notification in connection.notifies():
            assert notification.payload == "payload"
            break
    await asyncio.gather(*(one(number) for number in range(10)))


uringloop.run(main())

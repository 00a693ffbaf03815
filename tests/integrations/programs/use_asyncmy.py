"""asyncmy: large values, an unbuffered cursor, a pool."""

import asyncio
import os

import asyncmy
from asyncmy.cursors import SSCursor
from inside import blob, check_loop

import uringloop

OPTIONS = {"host": "127.0.0.1", "port": int(os.environ["MYSQL_PORT"]), "user": "root", "db": "mysql"}


async def main():
    check_loop()
    async with asyncmy.create_pool(**OPTIONS, minsize=4, maxsize=4, autocommit=True) as pool:

        async def read(number):
            async with pool.acquire() as connection, connection.cursor() as cursor:
                await cursor.execute("SELECT %s, %s", (number, blob(number * 9_000).decode()))
                return await cursor.fetchone()

        found = await asyncio.gather(*(read(number) for number in range(50)))
        assert found == [(number, blob(number * 9_000).decode()) for number in range(50)]
        async with pool.acquire() as connection, connection.cursor(SSCursor) as cursor:
            await cursor.execute("SELECT seq FROM seq_1_to_20000")
            assert [row[0] async for row in cursor] == list(range(1, 20001))


uringloop.run(main())

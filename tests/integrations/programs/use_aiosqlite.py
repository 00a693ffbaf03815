"""aiosqlite, which wakes the loop from its own threads."""

import asyncio

import aiosqlite
from inside import blob, check_loop

import uringloop


async def main():
    check_loop()
    async with aiosqlite.connect("data.db") as database:
        await database.execute("CREATE TABLE data (id INTEGER, value BLOB)")
        await asyncio.gather(
            *(database.execute("INSERT INTO data VALUES (?, ?)", (n, blob(n * 1_000))) for n in range(300))
        )
        await database.commit()
        async with database.execute("SELECT * FROM data ORDER BY id") as cursor:
            assert [row async for row in cursor] == [(n, blob(n * 1_000)) for n in range(300)]


uringloop.run(main())

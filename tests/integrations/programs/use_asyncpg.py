"""asyncpg: rows, COPY, notifications, a pool, a cancelled query."""

import asyncio
import io
import os

import asyncpg
from inside import blob, check_loop

import uringloop


async def main():
    check_loop()
    options = {
        "host": "127.0.0.1",
        "port": int(os.environ["POSTGRES_PORT"]),
        "user": "loop",
        "database": "postgres",
    }
    connection = await asyncpg.connect(**options)
    await connection.execute("CREATE TEMP TABLE data (id int, value bytea)")
    await connection.executemany(
        "INSERT INTO data VALUES ($1, $2)", [(n, blob(n * 9_000)) for n in range(101)]
    )
    rows = await connection.fetch("SELECT * FROM data ORDER BY id")
    assert [row["value"] for row in rows] == [blob(n * 9_000) for n in range(101)]
    output = io.BytesIO()
    await connection.copy_from_query("SELECT generate_series(1, 50000)", output=output)
    assert output.getvalue().split() == [b"%d" % n for n in range(1, 50001)]
    notified = asyncio.get_running_loop().create_future()
    await connection.add_listener("channel", lambda *found: notified.set_result(found[3]))
    await connection.execute("NOTIFY channel, 'payload'")
    assert await notified == "payload"
    try:
        await asyncio.wait_for(connection.execute("SELECT pg_sleep(60)"), 0.2)
        raise AssertionError("not cancelled")
    except TimeoutError:
        assert await connection.fetchval("SELECT 5") == 5
    await connection.close()
    async with asyncpg.create_pool(**options, min_size=4, max_size=4) as pool:
        assert await asyncio.gather(*(pool.fetchval("SELECT $1::int", n) for n in range(100))) == list(
            range(100)
        )


uringloop.run(main())

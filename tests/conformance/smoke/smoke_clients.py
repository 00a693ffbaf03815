"""Clients of real servers: redis, PostgreSQL, ZeroMQ, and a dask cluster of processes."""

import asyncio
import os


def test_redis(redis_port):
    import redis.asyncio as redis

    async def main():
        client = redis.Redis(port=redis_port)
        value = os.urandom(5_000_000)
        await client.set("key", value)
        assert await client.get("key") == value

        async def count():
            for _ in range(50):
                await client.incr("number")

        await asyncio.gather(*(count() for _ in range(20)))
        assert int(await client.get("number")) == 1000
        async with client.pubsub() as subscription:
            await subscription.subscribe("channel")
            await subscription.get_message(timeout=5)
            await client.publish("channel", "message")
            message = await subscription.get_message(ignore_subscribe_messages=True, timeout=5)
            assert message["data"] == b"message"
        await client.aclose()

    asyncio.run(main())


def test_postgresql(postgres):
    import asyncpg

    async def main():
        async with asyncpg.create_pool(**postgres, min_size=4, max_size=8) as pool:

            async def double(number):
                async with pool.acquire() as connection:
                    assert await connection.fetchval("select $1::int * 2", number) == 2 * number

            await asyncio.gather(*(double(number) for number in range(300)))
            async with pool.acquire() as connection:
                await connection.execute("create temp table t(a int, b text)")
                records = [(number, "x" * 500) for number in range(20_000)]
                await connection.copy_records_to_table("t", records=records)
                assert await connection.fetchval("select sum(length(b)) from t") == 10_000_000
                assert len(await connection.fetch("select * from t")) == 20_000
                try:
                    await connection.execute("select pg_sleep(10)", timeout=0.2)
                except TimeoutError:
                    assert await connection.fetchval("select 1") == 1
                else:
                    raise AssertionError("no timeout")

    asyncio.run(main())


def test_zeromq():
    import zmq
    import zmq.asyncio

    async def main():
        context = zmq.asyncio.Context()
        server, client = context.socket(zmq.REP), context.socket(zmq.REQ)
        client.connect(f"tcp://127.0.0.1:{server.bind_to_random_port('tcp://127.0.0.1')}")

        async def serve():
            for _ in range(300):
                await server.send(await server.recv())

        serving = asyncio.create_task(serve())
        for number in range(300):
            await client.send(b"%d" % number)
            assert await client.recv() == b"%d" % number
        await serving
        server.close()
        client.close()
        context.term()

    asyncio.run(main())


def test_a_dask_cluster():
    from dask.distributed import Client, LocalCluster

    async def main():
        how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "host": "127.0.0.1"}
        async with LocalCluster(processes=True, asynchronous=True, **how) as cluster:
            async with Client(cluster, asynchronous=True) as client:
                squares = client.map(lambda number: number * number, range(300))
                assert await client.submit(sum, squares) == sum(number * number for number in range(300))
                data = await client.scatter(os.urandom(20_000_000))
                assert await client.submit(len, data) == 20_000_000

    asyncio.run(main())

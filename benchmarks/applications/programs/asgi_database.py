"""TechEmpower's tests of a database with asyncpg, without a framework: ASGI.

`/db`: one row; `/queries/N`: N rows, one query each; `/updates/N`: the same, changed and written back; `/fortunes`: a
dozen rows as HTML. The environment says where PostgreSQL is (PGHOST, PGUSER, PGDATABASE), as for all of its clients.
"""

import json
from operator import itemgetter
from random import randint, sample

import asyncpg
import jinja2

SELECT = "SELECT id, randomnumber FROM world WHERE id = $1"
UPDATE = "UPDATE world SET randomnumber = $2 WHERE id = $1"
PAGE = jinja2.Environment(autoescape=True).from_string(
    "<!DOCTYPE html><html><head><title>Fortunes</title></head><body><table><tr><th>id</th><th>message</th></tr>"
    "{% for id, message in fortunes %}<tr><td>{{ id }}</td><td>{{ message }}</td></tr>{% endfor %}"
    "</table></body></html>"
)

pool = None


async def one_row(n):
    row = await pool.fetchrow(SELECT, randint(1, 10_000))
    return {"id": row[0], "randomNumber": row[1]}


async def rows(n):
    async with pool.acquire() as connection:
        statement = await connection.prepare(SELECT)
        found = [await statement.fetchrow(row_id) for row_id in sample(range(1, 10_001), n)]
    return [{"id": row[0], "randomNumber": row[1]} for row in found]


async def updates(n):
    # Sorted, so that two requests never wait for each other's rows in turn.
    changes = [(row_id, randint(1, 10_000)) for row_id in sorted(sample(range(1, 10_001), n))]
    async with pool.acquire() as connection:
        statement = await connection.prepare(SELECT)
        for row_id, _ in changes:
            await statement.fetchrow(row_id)
        await connection.executemany(UPDATE, changes)
    return [{"id": row_id, "randomNumber": number} for row_id, number in changes]


async def fortunes(n):
    found = [tuple(row) for row in await pool.fetch("SELECT id, message FROM fortune")]
    found.append((0, "Additional fortune added at request time."))
    return PAGE.render(fortunes=sorted(found, key=itemgetter(1)))


TESTS = {"db": one_row, "queries": rows, "updates": updates, "fortunes": fortunes}


async def lifespan(receive, send):
    global pool
    await receive()
    pool = await asyncpg.create_pool()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await pool.close()
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
        return
    _, test, *number = scope["path"].split("/")
    found = await TESTS[test](int(number[0]) if number else 1)
    kind = b"text/html; charset=utf-8" if test == "fortunes" else b"application/json"
    body = (found if test == "fortunes" else json.dumps(found)).encode()
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})

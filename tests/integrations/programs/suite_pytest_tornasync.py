"""Tests for pytest-tornasync; the row's conftest.py chooses the loop."""

import pytest
import serve_tornado
from inside import blob, check_loop


@pytest.fixture
def app():
    return serve_tornado.app


async def test_a_server(http_server_client):
    check_loop()
    answer = await http_server_client.fetch("/echo", method="POST", body=blob(900_000))
    assert answer.body == blob(900_000)

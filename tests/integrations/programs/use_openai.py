"""openai's client against a loopback server: whole answers and streams, many at a time."""

import asyncio

import openai
from inside import check_loop
from loopback_http import serving

import uringloop


async def main(port):
    check_loop()
    async with openai.AsyncOpenAI(api_key="none", base_url=f"http://127.0.0.1:{port}/v1") as client:

        async def ask(text):
            messages = [{"role": "user", "content": text}]
            answer = await client.chat.completions.create(model="echo", messages=messages)
            pieces = await client.chat.completions.create(model="echo", messages=messages, stream=True)
            return answer.choices[0].message.content, "".join(
                [piece.choices[0].delta.content async for piece in pieces]
            )

        texts = [f"{number} " * (number + 1) for number in range(20)]
        assert await asyncio.gather(*map(ask, texts)) == [(text, text) for text in texts]


with serving() as port:
    uringloop.run(main(port))

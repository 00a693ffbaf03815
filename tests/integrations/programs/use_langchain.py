"""LangChain: a chain of prompt, chat model (OpenAI's client, a loopback server) and parser, batched and streamed."""

from inside import check_loop
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from loopback_http import serving

import uringloop


async def main(port):
    check_loop()
    model = ChatOpenAI(
        model="echo", api_key="none", base_url=f"http://127.0.0.1:{port}/v1", stream_usage=False
    )
    chain = ChatPromptTemplate.from_messages([("user", "say {what} again")]) | model | StrOutputParser()
    inputs = [{"what": str(number)} for number in range(20)]
    assert await chain.abatch(inputs) == [f"say {number} again" for number in range(20)]
    pieces = [piece async for piece in chain.astream({"what": "it"})]
    assert "".join(pieces) == "say it again "
    assert len(pieces) >= 3


with serving() as port:
    uringloop.run(main(port))

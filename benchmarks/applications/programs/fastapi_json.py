"""FastAPI: a route that answers with a pydantic model."""

from fastapi import FastAPI
from pydantic import BaseModel


class Message(BaseModel):
    message: str


app = FastAPI()


@app.get("/json")
async def greet() -> Message:
    return Message(message="Hello, World!")

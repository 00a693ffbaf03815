"""SQLAlchemy's asyncio sessions: asyncpg and aiosqlite under one model."""

import asyncio
import os

from inside import check_loop
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import uringloop


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


async def exercise(url):
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with sessions() as session:
        session.add_all(Item(id=n, text=f"item {n}" * 100) for n in range(1, 501))
        await session.commit()

    async def read(number):
        async with sessions() as session:
            return (await session.scalars(select(Item).where(Item.id == number))).one().text

    numbers = range(1, 501, 10)
    assert await asyncio.gather(*map(read, numbers)) == [f"item {n}" * 100 for n in numbers]
    async with sessions() as session:
        found = [item.id async for item in await session.stream_scalars(select(Item).order_by(Item.id))]
    assert found == list(range(1, 501))
    await engine.dispose()


async def main():
    check_loop()
    await exercise(f"postgresql+asyncpg://loop@127.0.0.1:{os.environ['POSTGRES_PORT']}/postgres")
    await exercise("sqlite+aiosqlite:///items.db")


uringloop.run(main())

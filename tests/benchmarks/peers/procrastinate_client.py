"""The peer `procrastinate`: a queue in Postgres. The module is the workers' application, and the client when it is run."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import procrastinate
import psycopg
from client_loop import PAYLOAD, answer_with, take_order, wait_for_go

URL = os.environ["BENCH_DATABASE_URL"]
IN_FLIGHT = 16
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL))


@app.task(name="noop")
async def noop(payload: dict[str, Any]) -> dict[str, Any]:
    return {"echo": None}


async def send(count: int) -> None:
    left = count

    async def send_in_turn() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await noop.defer_async(payload=PAYLOAD)

    wait_for_go()
    processor, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(send_in_turn() for _ in range(IN_FLIGHT)))
    answer_with({"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - processor})


async def measure_latency(order: dict[str, Any]) -> None:
    connection = await psycopg.AsyncConnection.connect(URL, autocommit=True)
    wait_for_go()
    latencies = []
    for _ in range(order["count"]):
        began = time.perf_counter()
        job_id = await noop.defer_async(payload=PAYLOAD)
        while not await is_done(connection, job_id):  # noqa: ASYNC110 - a client of it has no event to wait for.
            await asyncio.sleep(0.001)
        latencies.append(time.perf_counter() - began)
        await asyncio.sleep(order["idle_seconds"])
    await connection.close()
    answer_with({"latencies": latencies})


async def is_done(connection: psycopg.AsyncConnection[Any], job_id: int) -> bool:
    cursor = await connection.execute("SELECT status = 'succeeded' FROM procrastinate_jobs WHERE id = %s", [job_id])
    row = await cursor.fetchone()
    return bool(row and row[0])


async def main() -> None:
    order = take_order()
    async with app.open_async():
        await (send(order["count"]) if order["mode"] == "send" else measure_latency(order))


if __name__ == "__main__":
    asyncio.run(main())

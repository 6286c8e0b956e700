"""The peer `naive`: FastAPI and Celery as their first pages have them, with Redis as broker and for results."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI
from pydantic import BaseModel

URL = os.environ["BENCH_BROKER_URL"]
celery = Celery("naive", broker=URL, backend=URL)
celery.conf.broker_connection_retry_on_startup = True
app = FastAPI()


class Job(BaseModel):
    kind: str
    payload: dict[str, Any] = {}


@celery.task
def noop(payload: dict[str, Any]) -> dict[str, Any]:
    return {"echo": None}


@app.post("/tasks", status_code=202)
def submit(job: Job) -> dict[str, Any]:
    return {"id": noop.delay(job.payload).id}


@app.get("/tasks/{task_id}")
def poll(task_id: str) -> dict[str, Any]:
    found = AsyncResult(task_id, app=celery)
    return {"id": task_id, "status": found.status, "result": found.result}

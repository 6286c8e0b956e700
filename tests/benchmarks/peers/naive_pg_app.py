"""The peer `naive_pg`: the same with a table of jobs, through SQLAlchemy's ORM. Run as a module it makes the table."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from celery import Celery
from celery.signals import worker_process_init
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from sqlalchemy import JSON, DateTime, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

engine = create_engine(
    os.environ["BENCH_DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1), pool_size=20, max_overflow=20
)
celery = Celery("naive_pg", broker=os.environ["BENCH_BROKER_URL"])
celery.conf.broker_connection_retry_on_startup = True
app = FastAPI()


def now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    pass


class JobRow(Base):
    __tablename__ = "jobs"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    kind: Mapped[str]
    status: Mapped[str] = mapped_column(default="queued")
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    started_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


class Job(BaseModel):
    kind: str
    payload: dict[str, Any] = {}


@worker_process_init.connect
def open_connections_anew(**_: object) -> None:
    engine.dispose(close=False)


@celery.task(ignore_result=True)
def noop(job_id: str) -> None:
    with Session(engine) as session:
        job = session.get_one(JobRow, uuid.UUID(job_id))
        job.status, job.started_at = "running", now()
        session.commit()
        job.status, job.finished_at, job.result = "succeeded", now(), {"echo": None}
        session.commit()


def open_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


OpenSession = Annotated[Session, Depends(open_session)]


@app.post("/tasks", status_code=202)
def submit(job: Job, session: OpenSession) -> dict[str, Any]:
    row = JobRow(kind=job.kind, payload=job.payload)
    session.add(row)
    session.commit()
    noop.delay(str(row.id))
    return {"id": str(row.id)}


@app.get("/tasks/{job_id}")
def poll(job_id: uuid.UUID, session: OpenSession) -> dict[str, Any]:
    row = session.get(JobRow, job_id)
    if row is None:
        raise HTTPException(404)
    return {"id": str(row.id), "kind": row.kind, "status": row.status, "result": row.result}


if __name__ == "__main__":
    Base.metadata.create_all(engine)

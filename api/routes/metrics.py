"""`GET /metrics`: gauges of queues and parts, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.auth.caller import Caller
from api.dependencies import ReadsDependency, caller_with
from api.http.query_strings import NoQuery
from api.http.rate_limits import limited
from shared.permissions import Permission
from shared.queries.canaries import CANARY_KIND, LIST_CANARIES
from shared.queries.signs_of_life import list_signs_of_life

router = APIRouter()


class _Gauges(Collector):
    """Gauges with values that were read for this request."""

    def __init__(self, *gauges: GaugeMetricFamily) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the gauges."""
        yield from self._gauges


@router.get("/metrics", include_in_schema=False)
@limited("read")
async def get_metrics(
    request: Request,
    reads: ReadsDependency,
    caller: Annotated[Caller, caller_with(Permission.METRICS_READ)],
    query: Annotated[NoQuery, Query()],
) -> Response:
    """Return gauges of each queue's last canary and of each part's last sign of life, to operators and admins."""
    return_age = GaugeMetricFamily(
        "taskmill_canary_age_seconds", "How long ago a canary of the queue last succeeded.", labels=["queue"]
    )
    round_trip = GaugeMetricFamily(
        "taskmill_canary_round_trip_seconds",
        "How long the queue's last canary took, from its submission to its end.",
        labels=["queue"],
    )
    sign_age = GaugeMetricFamily(
        "taskmill_sign_of_life_age_seconds", "How long ago the part last showed a sign of life.", labels=["part"]
    )
    async with reads.connect() as connection:
        for canary in await connection.exec_driver_sql(LIST_CANARIES, {"kind": CANARY_KIND}):
            return_age.add_metric([canary.queue], canary.age_seconds)
            if canary.round_trip_seconds is not None:
                round_trip.add_metric([canary.queue], canary.round_trip_seconds)
        for sign in await connection.execute(list_signs_of_life()):
            sign_age.add_metric([sign.part], float(sign.age_seconds))
    registry = CollectorRegistry()
    registry.register(_Gauges(return_age, round_trip, sign_age))
    return Response(generate_latest(registry), headers={"Cache-Control": "no-store"}, media_type=CONTENT_TYPE_LATEST)

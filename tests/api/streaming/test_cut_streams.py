"""Streams through a proxy that cuts every connection after some bytes: a client that resumes misses no event."""

from __future__ import annotations

from urllib.parse import urlsplit

from tests.api.conftest import ManualWorker, PublishWakeup, Submit
from tests.conftest import Api, Eventually
from tests.cutting_proxy import cut_connections
from tests.stream_listeners import listen

CUT_AFTER_BYTES = (30, 400, 150, 1000, 77, 650, 500)
"""Within an event, and after several. Seven and the number of listeners have no common divisor, so that each meets all of them."""
REPORTS = 12


def test_no_event_is_lost_or_doubled_by_a_proxy_that_cuts_streams(
    served: Api, manual_worker: ManualWorker, email: Submit, publish_wakeup: PublishWakeup, eventually: Eventually
) -> None:
    client = served.client("behind-a-proxy")
    url = urlsplit(served.url)
    task_id = email(by=client)
    paths = ["/events", f"/tasks/{task_id}/events"] * 2

    with (
        cut_connections((str(url.hostname), int(url.port or 0)), CUT_AFTER_BYTES) as proxy,
        listen([(proxy.host, proxy.port)], paths, client.headers["authorization"]) as listeners,
    ):
        # The first message of /events is a position, from which on nothing is lost.
        eventually(lambda: all(listener.last_id for listener in listeners))
        manual_worker.claim(task_id)
        publish_wakeup(task_id)
        for percent in range(REPORTS):
            manual_worker.report(task_id, percent)
            publish_wakeup(task_id)
        manual_worker.end(task_id, "succeeded", result={"recipients": []})
        publish_wakeup(task_id)
        last = REPORTS + 3

        eventually(lambda: all(listener.is_over for listener in listeners[1::2]))
        eventually(lambda: all(any(data["seq"] == last for *_, data in one.events) for one in listeners[::2]))
        of_all, of_one = listeners[::2], listeners[1::2]

    for listener in of_one:
        assert [int(seq) for seq, *_ in listener.events] == list(range(1, last + 1))
    for listener in of_all:
        # They began after the task was submitted.
        assert [data["seq"] for *_, data in listener.events] == list(range(2, last + 1))
    assert proxy.cuts > len(CUT_AFTER_BYTES)

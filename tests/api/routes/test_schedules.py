"""`/schedules`: creating, changing and refusing schedules. `tests/workers/test_beat_scheduler.py` tests how they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count, pairwise
from typing import Any, LiteralString

import httpx2
import psycopg
import pytest
from psycopg.sql import SQL

from shared.api_keys import create_key
from shared.database.connections import make_engine
from shared.settings import Settings
from tests.api.conftest import ErrorsOf
from tests.conftest import Api, ServeApi
from workers.beat_scheduler import ensure_platform_schedules, insert_due_tasks

MAIL = {"kind": "email.send", "params": {"to": ["ada@example.com"], "text": "hello"}}
NUMBERS = count(1)


def create(client: httpx2.Client, **fields: object) -> httpx2.Response:
    body = {"name": f"schedule-{next(NUMBERS)}", "cron": "30 2 * * *", **MAIL, **fields}
    return client.post("/schedules", json={name: value for name, value in body.items() if value is not None})


def created(client: httpx2.Client, **fields: object) -> dict[str, Any]:
    answer = create(client, **fields)
    assert answer.status_code == 201, answer.text
    schedule: dict[str, Any] = answer.json()
    return schedule


def change(client: httpx2.Client, schedule: dict[str, Any], **fields: object) -> httpx2.Response:
    etag = client.get(schedule["links"]["self"]).headers["etag"]
    return client.patch(schedule["links"]["self"], json=fields, headers={"If-Match": etag})


@pytest.fixture
def beat(module_settings: Settings) -> Iterator[Callable[[], int]]:
    """Submits the tasks of due schedules, as beat does each second."""
    engine = make_engine(module_settings, "test-beat")
    yield lambda: insert_due_tasks(engine)
    engine.dispose()


def test_a_schedule_is_shown_as_it_was_created(client: httpx2.Client) -> None:
    answer = create(
        client,
        timezone="Europe/Berlin",
        missed="run_once",
        overlap="skip",
        jitter=30,
        tags=["nightly"],
        metadata={"team": "data"},
        ttl=600,
        priority=7,
    )
    schedule = answer.json()

    assert answer.status_code == 201, answer.text
    assert answer.headers["location"] == schedule["links"]["self"]
    shown = client.get(schedule["links"]["self"])
    assert shown.headers["etag"] == answer.headers["etag"]
    assert {**shown.json(), "next_times": [], "last_runs": []} == {**schedule, "next_times": [], "last_runs": []}
    assert schedule["description"] == "At 02:30 every day (Europe/Berlin)"
    assert (schedule["tags"], schedule["metadata"], schedule["ttl"], schedule["priority"]) == (
        ["nightly"],
        {"team": "data"},
        600,
        7,
    )


def test_the_next_five_times_are_shown_in_order(client: httpx2.Client) -> None:
    schedule = created(client, cron="*/10 * * * *")

    shown = client.get(schedule["links"]["self"]).json()

    times = [datetime.fromisoformat(time) for time in shown["next_times"]]
    assert len(times) == 5
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(minutes=10)}
    assert shown["next_at"] == shown["next_times"][0]


def test_a_due_schedule_runs_and_its_runs_are_shown(
    client: httpx2.Client, module_settings: Settings, beat: Callable[[], int]
) -> None:
    schedule = created(client, cron=None, every=3600)
    with psycopg.connect(module_settings.database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE schedules SET next_at = date_trunc('hour', now()), missed = 'run_once' WHERE id = %s",
            [schedule["id"]],
        )

    assert beat() == 1

    (run,) = client.get(schedule["links"]["self"]).json()["last_runs"]
    task = client.get(f"/tasks/{run['task_id']}").json()
    assert (task["kind"], task["status"], run["status"]) == ("email.send", "queued", "queued")


def test_a_schedule_runs_on_request_and_the_run_is_shown(client: httpx2.Client) -> None:
    schedule = created(client, enabled=False)

    answer = client.post(schedule["links"]["run"])

    assert answer.status_code == 202, answer.text
    assert client.get(answer.headers["location"]).json()["params"]["to"] == ["ada@example.com"]
    runs = client.get(schedule["links"]["self"]).json()["last_runs"]
    assert [run["task_id"] for run in runs] == [answer.json()["id"]]


def test_a_change_needs_the_version_that_it_is_based_on(client: httpx2.Client) -> None:
    schedule = created(client)
    path = schedule["links"]["self"]
    etag = client.get(path).headers["etag"]

    without = client.patch(path, json={"enabled": False})
    first = client.patch(path, json={"enabled": False}, headers={"If-Match": etag})
    second = client.patch(path, json={"enabled": True}, headers={"If-Match": etag})

    assert [answer.status_code for answer in (without, first, second)] == [428, 200, 412]
    assert first.json()["next_at"] is None
    assert client.get(path).json()["enabled"] is False


def test_a_change_replaces_only_the_fields_that_it_names(client: httpx2.Client) -> None:
    schedule = created(client, tags=["a"], ttl=60)

    answer = change(client, schedule, every=90, ttl=None)

    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["cron"], shown["every"], shown["ttl"], shown["tags"]) == (None, 90, None, ["a"])
    assert shown["description"] == "Every 90 seconds"


@pytest.mark.parametrize(
    ("changed", "slots"), [({"tags": ["b"]}, 1), ({"enabled": True, "every": 3600}, 1), ({"every": 7200}, 0)]
)
def test_a_change_of_anything_but_the_rule_loses_no_slot_that_has_come(
    client: httpx2.Client,
    beat: Callable[[], int],
    module_settings: Settings,
    changed: dict[str, Any],
    slots: int,
) -> None:
    schedule = created(client, cron=None, every=3600, missed="run_all")
    with psycopg.connect(module_settings.database_url, autocommit=True) as connection:
        connection.execute(
            "UPDATE schedules SET planned_at = now() - interval '70 minutes', next_at = now() - interval '60 minutes'"
            " WHERE id = %s",
            [schedule["id"]],
        )

    assert change(client, schedule, **changed).status_code == 200
    beat()

    assert len(client.get(schedule["links"]["self"]).json()["last_runs"]) == slots


def test_a_name_is_unique_within_its_organization(client: httpx2.Client, stranger: httpx2.Client) -> None:
    created(client, name="same")

    assert create(client, name="same").status_code == 409
    assert create(stranger, name="same").status_code == 201
    assert change(client, created(client), name="same").status_code == 409


def test_an_organization_has_no_more_schedules_than_configured(settings: Settings, serve: ServeApi) -> None:
    with serve(settings.model_copy(update={"max_schedules": 2})) as api:
        ada, bob = api.client("ada"), api.client("bob")
        path = created(ada)["links"]["self"]
        created(ada)

        refused = create(ada)

        assert (refused.status_code, refused.json()["type"]) == (409, "/problems/conflict")
        assert create(bob).status_code == 201
        assert ada.delete(path).status_code == 204
        assert create(ada).status_code == 201


def test_a_client_does_not_run_an_operators_schedule_of_a_privileged_kind(
    served: Api, module_settings: Settings
) -> None:
    operator, colleague = (
        served.client_with(create_key(module_settings, name, role, organization="shared").key)
        for name, role in (("manager", "operator"), ("colleague", "client"))
    )
    path = created(operator, kind="platform.ping", params={})["links"]["run"]

    assert colleague.post(path).status_code == 403
    assert operator.post(path).status_code == 202


def test_a_deleted_schedule_is_gone_and_its_tasks_stay(client: httpx2.Client) -> None:
    schedule = created(client)
    task = client.post(schedule["links"]["run"]).json()

    assert client.delete(schedule["links"]["self"]).status_code == 204
    assert client.get(schedule["links"]["self"]).status_code == 404
    assert client.get(task["links"]["self"]).status_code == 200


def test_schedules_are_listed_newest_first_in_pages(served: Api) -> None:
    lister = served.client("lister")
    names = [created(lister)["name"] for _ in range(3)]

    first = lister.get("/schedules", params={"limit": 2}).json()
    rest = lister.get("/schedules", params={"limit": 2, "cursor": first["next_cursor"]}).json()

    assert [item["name"] for item in first["items"] + rest["items"]] == names[::-1]
    assert rest["next_cursor"] is None


def test_another_organizations_schedule_is_not_found(client: httpx2.Client, stranger: httpx2.Client) -> None:
    path = created(client)["links"]["self"]

    answers = [
        stranger.get(path),
        stranger.patch(path, json={"enabled": False}, headers={"If-Match": '"1"'}),
        stranger.delete(path),
        stranger.post(f"{path}/run"),
    ]

    assert [answer.status_code for answer in answers] == [404, 404, 404, 404]


def test_an_operator_sees_the_schedules_of_others_and_changes_none(
    client: httpx2.Client, operator: httpx2.Client
) -> None:
    schedule = created(client)

    assert operator.get(schedule["links"]["self"]).status_code == 200
    assert change(operator, schedule, enabled=False).status_code == 403
    assert operator.delete(schedule["links"]["self"]).status_code == 403
    assert operator.post(schedule["links"]["run"]).status_code == 403


def test_an_admin_may_only_enable_or_disable_the_platforms_own_schedules(
    admin: httpx2.Client, client: httpx2.Client, module_settings: Settings
) -> None:
    engine = make_engine(module_settings, "test-beat")
    ensure_platform_schedules(engine)
    engine.dispose()
    (purge,) = (item for item in admin.get("/schedules?limit=200").json()["items"] if item["name"] == "purge")

    assert change(admin, purge, enabled=False).json()["enabled"] is False
    assert change(admin, purge, every=5).status_code == 403
    assert admin.delete(purge["links"]["self"]).status_code == 403
    assert client.get(purge["links"]["self"]).status_code == 404
    assert "purge" not in [item["name"] for item in client.get("/schedules?limit=200").json()["items"]]


def test_a_preview_shows_ten_times_across_daylight_saving_and_stores_nothing(client: httpx2.Client) -> None:
    start = datetime(2027, 3, 27, 12, tzinfo=UTC).isoformat()
    answer = client.post(
        "/schedules/preview", json={"cron": "30 2 * * *", "timezone": "Europe/Berlin", "starts_at": start}
    )

    times = answer.json()["times"]
    assert answer.status_code == 200
    assert len(times) == 10
    # The clocks jump from 02:00 to 03:00 on 28 March 2027, at 01:00 UTC.
    assert times[:2] == ["2027-03-28T01:00:00.000Z", "2027-03-29T00:30:00.000Z"]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"cron": "0 0 30 2 *"}, "/cron"),
        ({"cron": "61 * * * *"}, "/cron"),
        ({"cron": "* * * * * *"}, "/cron"),
        ({"cron": "@reboot"}, "/cron"),
        ({"cron": None}, "/cron"),
        ({"every": 60}, "/cron"),
        ({"cron": None, "every": 0}, "/every"),
        ({"cron": None, "every": 0.5}, "/every"),
        ({"timezone": "Mars/Olympus"}, "/timezone"),
        ({"timezone": "../../etc/passwd"}, "/timezone"),
        ({"starts_at": "2030-01-02T00:00:00Z", "ends_at": "2030-01-01T00:00:00Z"}, "/ends_at"),
        ({"ends_at": "2020-01-01T00:00:00Z"}, "/ends_at"),
        ({"starts_at": "tomorrow"}, "/starts_at"),
        ({"starts_at": "9999-12-31T12:00:00Z"}, "/starts_at"),
        ({"starts_at": "0001-01-01T00:00:00Z", "timezone": "America/New_York"}, "/starts_at"),
        ({"cron": None, "every": 1, "ends_at": "9999-12-31T23:59:59-05:00"}, "/ends_at"),
        ({"params": {"to": ["ada@example.com"], "text": "x" * (64 << 10)}}, "/params"),
        ({"missed": "sometimes"}, "/missed"),
        ({"overlap": "sometimes"}, "/overlap"),
        ({"jitter": -1}, "/jitter"),
        ({"name": ""}, "/name"),
        ({"name": "a\x00b"}, "/name"),
        ({"enabled": "yes"}, "/enabled"),
        ({"run_at": "2030-01-01T00:00:00Z"}, "/run_at"),
        ({"unique_for": 60}, "/unique_for"),
        ({"unheard_of": 1}, "/unheard_of"),
        ({"kind": "maintenance.purge", "params": {}}, "/kind"),
        ({"kind": "files.unheard_of", "params": {}}, "/kind"),
        ({"params": {"to": []}}, "/params/to"),
        ({"kind": "files.inspect", "params": {"file_id": "01a226c1-69c8-7161-a545-9958d4e0e77d"}}, "/params/file_id"),
    ],
)
def test_an_invalid_schedule_is_refused_at_the_pointer_of_the_fault(
    client: httpx2.Client, errors_of: ErrorsOf, fields: dict[str, Any], pointer: str
) -> None:
    assert pointer in errors_of(create(client, **fields))


@pytest.mark.parametrize("body", [{}, {"cron": "0 0 30 2 *"}, {"kind": "files.unheard_of"}, {"delay": 1}])
def test_a_change_that_no_schedule_can_have_is_refused_and_changes_nothing(
    client: httpx2.Client, body: dict[str, Any]
) -> None:
    schedule = created(client)

    answer = change(client, schedule, **body)

    assert answer.status_code == 422
    assert client.get(schedule["links"]["self"]).json()["updated_at"] == schedule["updated_at"]


def test_a_schedule_can_only_be_made_with_the_scope_to_write(served: Api) -> None:
    reader = served.client("reader", scopes=["tasks:read"])

    assert create(reader).status_code == 403
    assert reader.get("/schedules").status_code == 200


def test_a_schedule_in_a_time_zone_that_the_server_does_not_know_is_shown(
    client: httpx2.Client, module_settings: Settings
) -> None:
    schedule = created(client, timezone="Europe/Berlin")
    with psycopg.connect(module_settings.database_url, autocommit=True) as connection:
        connection.execute("UPDATE schedules SET timezone = 'Mars/Olympus_Mons' WHERE id = %s", (schedule["id"],))

    shown = client.get(schedule["links"]["self"])

    assert (shown.status_code, shown.json()["timezone"], shown.json()["next_times"]) == (200, "Mars/Olympus_Mons", [])
    assert client.get("/schedules").status_code == 200
    assert change(client, shown.json(), timezone="Europe/Berlin").status_code == 200


@pytest.mark.parametrize(
    "change_row",
    [
        "ends_at = now() - interval '3 days'",
        "timezone = 'Mars/Olympus_Mons'",
        "kind = 'files.unheard_of'",
        """kind = 'files.inspect', params = '{"file_id": "01a226c1-69c8-7161-a545-9958d4e0e77d"}'""",
    ],
    ids=["ended", "unknown time zone", "kind that was removed", "file that was deleted"],
)
def test_a_schedule_that_could_not_be_created_any_more_can_be_disabled(
    client: httpx2.Client, module_settings: Settings, change_row: LiteralString
) -> None:
    schedule = created(client)
    with psycopg.connect(module_settings.database_url, autocommit=True) as connection:
        connection.execute(SQL("UPDATE schedules SET {} WHERE id = %s").format(SQL(change_row)), (schedule["id"],))

    answer = change(client, schedule, enabled=False)

    assert (answer.status_code, answer.json()["enabled"], answer.json()["next_at"]) == (200, False, None)
    assert change(client, schedule, enabled=True).status_code == 422

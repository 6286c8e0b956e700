"""`/auth`: signing in with a password and a second factor, refreshing, and signing out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import jwt
import pytest

from shared.database.connections import make_engine
from shared.people.creation import rotate_signing_key
from shared.people.totp import STEP_SECONDS, code_at
from shared.settings import Settings
from tests.api.people import CHEAP_HASHES, PASSWORD, People, ReadTokens, open_database, open_mailbox, token_in
from tests.conftest import Api, Eventually, serve_api

NEW_PASSWORD = "nine silent herons"


@pytest.fixture(scope="module")
def people_settings(module_settings: Settings) -> Settings:
    return module_settings.model_copy(update={**CHEAP_HASHES, "registration": "open"})


@pytest.fixture(scope="module")
def served_people(people_settings: Settings) -> Iterator[Api]:
    with serve_api(people_settings) as api:
        yield api


@pytest.fixture(scope="module")
def people(served_people: Api, people_settings: Settings) -> People:
    return People(served_people, people_settings)


@pytest.fixture
def emails(people_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReadTokens]:
    with open_mailbox(people_settings, tmp_path, monkeypatch) as deliver:
        yield deliver


def refresh(people: People, token: str) -> httpx2.Response:
    return people.nobody.post("/auth/refresh", json={"refresh_token": token})


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def problem(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_a_password_is_exchanged_for_tokens_that_verify_with_the_public_keys(people: People) -> None:
    answer = people.sign_in(people.create(), scope="tasks:read admin")

    tokens = answer.json()
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert (tokens["token_type"], tokens["expires_in"], tokens["scope"]) == ("bearer", 900, "tasks:read")
    keys = jwt.PyJWKSet.from_dict(people.nobody.get("/.well-known/jwks.json").json())
    kid = jwt.get_unverified_header(tokens["access_token"])["kid"]
    claims = jwt.decode(
        tokens["access_token"], keys[kid].key, ["EdDSA"], audience="taskmill", issuer="http://localhost:8000"
    )
    assert {"exp", "iat", "aud", "iss", "sub", "jti"} <= set(claims)


def test_a_token_does_what_its_scopes_and_the_role_allow(people: People) -> None:
    reader, viewer = people.signed_in(scope="tasks:read"), people.signed_in("viewer")

    assert reader.client.get("/tasks").status_code == 200
    assert problem(reader.client.post("/emails", json={"to": ["a@example.com"], "text": "x"})) == (403, "forbidden")
    assert problem(viewer.client.get("/files")) == (403, "forbidden")
    assert problem(viewer.client.get("/users")) == (403, "forbidden")


def test_a_task_of_a_person_belongs_to_the_person(people: People) -> None:
    ada = people.signed_in()

    task = ada.client.post("/emails", json={"to": ["a@example.com"], "text": "x"}).json()

    assert ada.client.get(f"/tasks/{task['id']}").status_code == 200
    assert people.signed_in().client.get(f"/tasks/{task['id']}").status_code == 404
    token = ada.client.post(f"/tasks/{task['id']}/stream-token").json()["token"]
    with people.nobody.stream("GET", f"/tasks/{task['id']}/events?token={token}") as stream:
        assert stream.status_code == 200


def test_unknown_people_and_wrong_passwords_are_refused_in_the_same_words(people: People) -> None:
    known = people.create()

    wrong = people.sign_in(known, "a wrong password")
    unknown = people.sign_in(people.email(), "a wrong password")
    too_long = people.sign_in(known, "x" * 10_000)
    nothing = people.sign_in("no address \0", "a wrong password")

    bodies = [{**answer.json(), "instance": ""} for answer in (wrong, unknown, too_long, nothing)]
    assert bodies == [bodies[0]] * 4
    assert problem(wrong) == (401, "invalid-credentials")
    assert "www-authenticate" in wrong.headers


@pytest.mark.parametrize(
    ("form", "pointer"),
    [
        ({"username": "ada@example.com"}, "form:password"),
        ({"username": "a", "password": "b", "grant_type": "implicit"}, "form:grant_type"),
        ({"username": "a", "password": "b", "scope": "everything"}, "form:scope"),
        ({"username": "a", "password": "b", "colour": "blue"}, "form:colour"),
        ({"username": ["a", "b"], "password": "b"}, "form:"),
    ],
)
def test_a_wrong_form_is_refused(people: People, form: dict[str, Any], pointer: str) -> None:
    answer = people.nobody.post("/auth/token", data=form)

    assert problem(answer) == (422, "validation")
    assert pointer in {error["pointer"] for error in answer.json()["errors"]}


def test_addresses_are_compared_without_case(people: People) -> None:
    assert people.sign_in(people.create().upper()).status_code == 200


def test_a_refresh_token_is_used_once_and_its_reuse_ends_the_session(people: People) -> None:
    first = people.signed_in().tokens
    second = refresh(people, first["refresh_token"]).json()

    reused = refresh(people, first["refresh_token"])

    assert problem(reused) == (401, "unauthorized")
    assert problem(refresh(people, second["refresh_token"])) == (401, "unauthorized")
    with open_database(people.settings) as connection:
        rows = connection.execute(
            "SELECT count(*) FROM audit_entries WHERE action = 'session.refresh_token_reused'"
        ).fetchone()
    assert rows is not None
    assert rows[0] >= 1


def test_of_fifty_parallel_refreshes_exactly_one_wins(people: People) -> None:
    token = people.signed_in().tokens["refresh_token"]

    with ThreadPoolExecutor(50) as threads:
        answers = list(threads.map(lambda _: refresh(people, token), range(50)))

    assert sorted(answer.status_code for answer in answers) == [200, *[401] * 49]


@pytest.mark.parametrize("token", ["", "x", "tmr_x", "tmr_" + "x" * 43, "tmi_" + "x" * 43, "tmr_\x00"])
def test_a_made_up_refresh_token_is_refused(people: People, token: str) -> None:
    assert refresh(people, token).status_code == 401


def test_tokens_die_when_their_session_ends(people: People, eventually: Eventually) -> None:
    ada = people.signed_in()
    other = people.enter(ada.email)
    listed = ada.client.get("/users/me/sessions").json()["items"]

    assert [session["current"] for session in listed] == [False, True]
    assert listed[0]["agent"].startswith("python-httpx")
    assert listed[0]["address"] == "127.0.0.1"
    assert ada.client.delete(f"/users/me/sessions/{listed[0]['id']}").status_code == 204
    assert ada.client.delete(f"/users/me/sessions/{listed[0]['id']}").status_code == 404
    eventually(lambda: other.client.get("/tasks").status_code == 401, seconds=2)
    assert ada.client.get("/tasks").status_code == 200
    assert refresh(people, other.tokens["refresh_token"]).status_code == 401


def test_a_session_of_another_cannot_be_ended(people: People) -> None:
    ada, bob = people.signed_in(), people.signed_in()
    session_id = bob.client.get("/users/me/sessions").json()["items"][0]["id"]

    assert problem(ada.client.delete(f"/users/me/sessions/{session_id}")) == (404, "not-found")


def test_signing_out_ends_one_session_or_all(people: People, eventually: Eventually) -> None:
    ada = people.signed_in()
    second, third = people.enter(ada.email), people.enter(ada.email)

    assert people.nobody.post("/auth/logout", json=ada.tokens | {}).status_code == 422
    body = {"refresh_token": ada.tokens["refresh_token"]}
    assert people.nobody.post("/auth/logout", json=body).status_code == 204
    assert people.nobody.post("/auth/logout", json=body).status_code == 204
    assert second.client.post("/auth/logout").status_code == 204
    eventually(lambda: ada.client.get("/tasks").status_code == 401, seconds=2)
    eventually(lambda: second.client.get("/tasks").status_code == 401, seconds=2)
    assert third.client.post("/auth/logout-everywhere").status_code == 204
    eventually(lambda: third.client.get("/tasks").status_code == 401, seconds=2)


def test_a_token_dies_when_the_role_changes_and_a_refresh_has_the_new_role(
    people: People, eventually: Eventually
) -> None:
    ada = people.signed_in("viewer")
    assert "tasks:write" not in ada.tokens["scope"]

    with open_database(people.settings) as connection:
        connection.execute("UPDATE memberships SET role = 'client' WHERE person_id = %s", [ada.id])

    eventually(lambda: ada.client.get("/tasks").status_code == 401, seconds=2)
    tokens = refresh(people, ada.tokens["refresh_token"]).json()
    assert "tasks:write" in tokens["scope"]


def test_a_member_who_is_removed_while_working_is_refused(people: People, eventually: Eventually) -> None:
    ada = people.signed_in()

    with open_database(people.settings) as connection:
        connection.execute("DELETE FROM memberships WHERE person_id = %s", [ada.id])

    eventually(lambda: ada.client.get("/tasks").status_code == 401, seconds=2)
    assert refresh(people, ada.tokens["refresh_token"]).status_code == 401
    assert problem(people.sign_in(ada.email)) == (403, "forbidden")


def test_a_new_signing_key_overlaps_with_the_one_before(people: People, eventually: Eventually) -> None:
    ada = people.signed_in()
    engine = make_engine(people.settings, "test-keys")
    with engine.begin() as connection:
        assert not rotate_signing_key(connection, people.settings, only_if_due=True)
        assert rotate_signing_key(connection, people.settings)

    eventually(lambda: len(people.nobody.get("/.well-known/jwks.json").json()["keys"]) > 1, seconds=3)
    assert ada.client.get("/tasks").status_code == 200
    old = jwt.get_unverified_header(ada.tokens["access_token"])["kid"]
    with open_database(people.settings) as raw:
        raw.execute("UPDATE signing_keys SET retires_at = now() WHERE id = %s", [old])
    eventually(lambda: ada.client.get("/tasks").status_code == 401, seconds=2)
    assert people.signed_in().client.get("/tasks").status_code == 200
    engine.dispose()


def test_a_browser_gets_the_refresh_token_in_a_cookie_that_other_sites_cannot_use(people: People) -> None:
    email, api = people.create(), people.api.url
    form = {"username": email, "password": PASSWORD}
    own, foreign = {"Origin": api}, {"Origin": "https://evil.example"}

    assert problem(people.nobody.post("/auth/token?cookie=true", data=form)) == (403, "forged-request")
    answer = people.nobody.post("/auth/token?cookie=true", data=form, headers=own)
    assert "refresh_token" not in answer.json()
    name, _, attributes = answer.headers["set-cookie"].partition("=")
    assert name == "__Host-taskmill-refresh"
    for attribute in ("HttpOnly", "Secure", "SameSite=strict", "Path=/"):
        assert attribute in attributes
    assert "Domain" not in attributes
    cookie = {"Cookie": f"{name}={attributes.partition(';')[0]}"}
    for wrong in ({}, foreign, {"Sec-Fetch-Site": "cross-site"}, {**own, "Sec-Fetch-Site": "same-site"}):
        assert problem(people.nobody.post("/auth/refresh", headers={**cookie, **wrong})) == (403, "forged-request")
    refreshed = people.nobody.post("/auth/refresh", headers={**cookie, "Sec-Fetch-Site": "same-origin"})
    assert refreshed.status_code == 200
    assert "refresh_token" not in refreshed.json()
    assert "__Host-taskmill-refresh=tmr_" in refreshed.headers["set-cookie"]


def test_a_key_does_not_do_for_the_account_of_a_person(people: People) -> None:
    service = people.api.client("service", "admin")

    for path in ("/users/me", "/users/me/sessions"):
        assert problem(service.get(path)) == (403, "sign-in-required")


def test_changing_the_password_ends_the_other_sessions(people: People, eventually: Eventually) -> None:
    ada = people.signed_in()
    other = people.enter(ada.email)

    wrong = ada.client.post("/auth/change-password", json={"current_password": "x", "new_password": NEW_PASSWORD})
    common = ada.client.post(
        "/auth/change-password", json={"current_password": PASSWORD, "new_password": "Password1234"}
    )
    changed = ada.client.post(
        "/auth/change-password", json={"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    )

    assert problem(wrong) == (401, "invalid-credentials")
    assert common.json()["errors"][0]["code"] == "common_password"
    assert changed.status_code == 204
    eventually(lambda: other.client.get("/tasks").status_code == 401, seconds=2)
    assert ada.client.get("/tasks").status_code == 200
    assert people.sign_in(ada.email).status_code == 401
    assert people.sign_in(ada.email, NEW_PASSWORD).status_code == 200


def test_a_password_hash_with_older_parameters_is_replaced_at_sign_in(people: People) -> None:
    weaker = people.settings.model_copy(update={"password_memory_kib": 16})
    email = People(people.api, weaker).create()

    people.enter(email)

    with open_database(people.settings) as connection:
        row = connection.execute("SELECT password_hash FROM people WHERE email_key = %s", [email]).fetchone()
    assert row is not None
    assert "$m=8,t=1,p=1$" in row[0]


def enable_totp(client: httpx2.Client) -> tuple[str, list[str]]:
    """Turn the second factor on, with the code of the step before, so that the code of now is unused."""
    answer = client.post("/auth/totp", json={"password": PASSWORD})
    assert answer.status_code == 200, answer.text
    secret = answer.json()["secret"]
    assert parse_qs(urlsplit(answer.json()["uri"]).query)["secret"] == [secret]
    confirmed = client.post("/auth/totp/confirm", json={"code": code_at(secret, int(time.time() // STEP_SECONDS) - 1)})
    assert confirmed.status_code == 200, confirmed.text
    return secret, confirmed.json()["recovery_codes"]


def answer_challenge(people: People, email: str, code: str) -> httpx2.Response:
    challenge = people.sign_in(email)
    assert challenge.status_code == 202, challenge.text
    return people.nobody.post("/auth/challenge", json={"challenge": challenge.json()["challenge"], "code": code})


def test_a_second_factor_is_asked_for_and_each_code_is_accepted_once(people: People) -> None:
    ada = people.signed_in()
    secret, recovery_codes = enable_totp(ada.client)
    code = code_at(secret, int(time.time() // STEP_SECONDS))

    assert answer_challenge(people, ada.email, "000000").status_code == 401
    entered = answer_challenge(people, ada.email, code)
    assert entered.status_code == 200
    assert answer_challenge(people, ada.email, code).status_code == 401
    assert answer_challenge(people, ada.email, recovery_codes[0].upper()).status_code == 200
    assert answer_challenge(people, ada.email, recovery_codes[0]).status_code == 401
    methods = {session["method"] for session in ada.client.get("/users/me/sessions").json()["items"]}
    assert methods == {"password", "totp", "recovery_code"}


def test_a_challenge_is_answered_once(people: People) -> None:
    ada = people.signed_in()
    _, recovery_codes = enable_totp(ada.client)
    challenge = people.sign_in(ada.email).json()["challenge"]

    answers = [
        people.nobody.post("/auth/challenge", json={"challenge": challenge, "code": code}).status_code
        for code in recovery_codes[:2]
    ]

    assert answers == [200, 401]


def test_a_second_factor_is_disabled_with_the_password(people: People) -> None:
    ada = people.signed_in()
    enable_totp(ada.client)

    assert ada.client.post("/auth/totp", json={"password": PASSWORD}).status_code == 409
    assert ada.client.post("/auth/totp/disable", json={"password": "a wrong one"}).status_code == 401
    assert ada.client.post("/auth/totp/disable", json={"password": PASSWORD}).status_code == 204
    assert people.sign_in(ada.email).status_code == 200


def test_a_second_factor_that_is_not_confirmed_is_not_asked_for(people: People) -> None:
    ada = people.signed_in()
    ada.client.post("/auth/totp", json={"password": PASSWORD})

    wrong = ada.client.post("/auth/totp/confirm", json={"code": "000000"})

    assert problem(wrong) == (422, "validation")
    assert people.sign_in(ada.email).status_code == 200


def test_guesses_are_refused_and_the_owner_goes_on_and_resets(people: People, emails: ReadTokens) -> None:
    ada = people.signed_in()

    guesses = [people.sign_in(ada.email, "a wrong password") for _ in range(11)]

    assert [guess.status_code for guess in guesses] == [401] * 10 + [429]
    assert int(guesses[-1].headers["retry-after"]) > 0
    assert people.sign_in(ada.email).status_code == 429
    assert refresh(people, ada.tokens["refresh_token"]).status_code == 200
    assert people.nobody.post("/auth/forgot-password", json={"email": ada.email}).status_code == 202
    token = token_in(emails()[0][1])
    body = {"token": token, "password": NEW_PASSWORD}
    assert people.nobody.post("/auth/reset-password", json=body).status_code == 204
    assert people.sign_in(ada.email, NEW_PASSWORD).status_code == 200


def test_requests_of_a_stranger_do_not_use_up_the_minute_of_the_owner(people: People) -> None:
    with serve_api(people.settings.model_copy(update={"rate_limit_sign_in_account": 2})) as api:
        there = People(api, people.settings)
        known, unknown = there.signed_in().email, there.create()

        assert [there.sign_in(known).status_code for _ in range(3)] == [200] * 3
        assert [there.sign_in(unknown, "a wrong password").status_code for _ in range(3)] == [401, 401, 429]
        assert there.nobody.post("/auth/forgot-password", json={"email": unknown}).status_code == 202


def test_guesses_at_an_unknown_account_are_counted_too(people: People) -> None:
    email = people.email()

    statuses = [people.sign_in(email, "a wrong password").status_code for _ in range(11)]

    assert statuses == [401] * 10 + [429]


def test_a_reset_token_is_used_once_and_is_not_stored(people: People, emails: ReadTokens) -> None:
    ada = people.signed_in()
    people.nobody.post("/auth/forgot-password", json={"email": ada.email.upper()})
    [(recipient, text)] = emails()
    token = token_in(text)

    weak = people.nobody.post("/auth/reset-password", json={"token": token, "password": "short"})
    first = people.nobody.post("/auth/reset-password", json={"token": token, "password": NEW_PASSWORD})
    second = people.nobody.post("/auth/reset-password", json={"token": token, "password": PASSWORD})

    assert recipient == ada.email
    assert (weak.status_code, first.status_code, second.status_code) == (422, 204, 422)
    assert refresh(people, ada.tokens["refresh_token"]).status_code == 401
    with open_database(people.settings) as connection:
        for table in ("task_payloads", "person_tokens", "audit_entries", "task_events"):
            found = connection.execute(
                f"SELECT count(*) FROM {table} AS row WHERE row::text LIKE %s", [f"%{token[4:]}%"]
            ).fetchone()
            assert found == (0,), table


def test_asking_for_a_reset_is_answered_alike_for_everyone(people: People, emails: ReadTokens) -> None:
    known = people.nobody.post("/auth/forgot-password", json={"email": people.create()})
    unknown = people.nobody.post("/auth/forgot-password", json={"email": people.email()})

    assert (known.status_code, known.json()) == (unknown.status_code, unknown.json())
    assert len(emails()) == 1


def test_registering_needs_the_token_of_the_email(people: People, emails: ReadTokens) -> None:
    email = people.email()
    body = {"email": email, "password": PASSWORD, "name": "Ada Lovelace"}
    answer = people.nobody.post("/auth/register", json=body)
    assert answer.status_code == 202, answer.text
    [(recipient, text)] = emails()

    assert recipient == email
    assert problem(people.sign_in(email)) == (403, "email-not-verified")
    token = {"token": token_in(text)}
    assert people.nobody.post("/auth/verify-email", json=token).status_code == 204
    assert people.nobody.post("/auth/verify-email", json=token).status_code == 422
    me = people.enter(email).client.get("/users/me").json()
    assert (me["name"], me["email_verified"]) == ("Ada Lovelace", True)
    assert [(one["organization"], one["role"]) for one in me["memberships"]] == [(email, "admin")]


def test_registering_a_known_address_changes_nothing_and_says_the_same(people: People, emails: ReadTokens) -> None:
    email = people.create()

    known = people.nobody.post("/auth/register", json={"email": email.title(), "password": NEW_PASSWORD})
    unknown = people.nobody.post("/auth/register", json={"email": people.email(), "password": NEW_PASSWORD})

    assert (known.status_code, known.json()) == (unknown.status_code, unknown.json())
    assert people.sign_in(email).status_code == 200
    texts = dict(emails())
    assert "tmv_" not in texts[email]


def test_of_changes_of_a_password_at_the_same_time_one_succeeds(people: People) -> None:
    person = people.signed_in()

    def change(number: int) -> int:
        body = {"current_password": PASSWORD, "new_password": f"{NEW_PASSWORD} {number}"}
        return person.client.post("/auth/change-password", json=body).status_code

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(change, range(4))) == [204, 401, 401, 401]


def test_of_two_registrations_with_different_passwords_neither_password_is_accepted(
    people: People, emails: ReadTokens
) -> None:
    email = people.email()
    for password in (PASSWORD, PASSWORD, NEW_PASSWORD):
        assert people.nobody.post("/auth/register", json={"email": email, "password": password}).status_code == 202
    token = token_in(emails()[-1][1])

    assert people.nobody.post("/auth/verify-email", json={"token": token}).status_code == 204
    for password in (PASSWORD, NEW_PASSWORD):
        assert problem(people.sign_in(email, password)) == (401, "invalid-credentials")


def test_registering_twice_with_one_password_changes_nothing(people: People, emails: ReadTokens) -> None:
    email = people.email()
    for _ in range(2):
        assert people.nobody.post("/auth/register", json={"email": email, "password": PASSWORD}).status_code == 202
    token = token_in(emails()[-1][1])

    assert people.nobody.post("/auth/verify-email", json={"token": token}).status_code == 204
    assert people.sign_in(email).status_code == 200


def test_a_reset_of_an_unverified_address_ends_the_registration_too(people: People, emails: ReadTokens) -> None:
    email = people.email()
    people.nobody.post("/auth/register", json={"email": email, "password": PASSWORD})
    people.nobody.post("/auth/forgot-password", json={"email": email})
    token = next(token for _, text in emails() if (token := token_in(text)).startswith("tmp_"))

    answer = people.nobody.post("/auth/reset-password", json={"token": token, "password": NEW_PASSWORD})

    assert answer.status_code == 204, answer.text
    assert people.enter(email, NEW_PASSWORD).client.get("/users/me").json()["memberships"][0]["role"] == "admin"


def test_nobody_is_added_unasked_where_everyone_may_register(people: People) -> None:
    boss, platform_admin, known = people.signed_in("admin"), people.signed_in("admin", admin=True), people.create()
    members = f"/organizations/{boss.organization_id}/members"

    answers = [boss.client.post(members, json={"email": email, "role": "client"}) for email in (known, people.email())]

    assert [problem(answer) for answer in answers] == [(403, "forbidden")] * 2
    assert platform_admin.client.post(members, json={"email": known, "role": "client"}).status_code == 201


def test_an_address_is_sent_few_invitations(people: People) -> None:
    boss = people.signed_in("admin")
    body = {"email": people.email(), "role": "client"}

    statuses = [boss.client.post("/invitations", json=body).status_code for _ in range(6)]

    assert statuses == [201] * 5 + [429]


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"password": "x" * 10_000}, "/password"),
        ({"password": "twelve\0chars"}, "/password"),
        ({"password": 5}, "/password"),
        ({"email": "\u0430da@example.com"}, "/email"),
        ({"email": "ada@example.com\0"}, "/email"),
        ({"name": "Ada\0"}, "/name"),
        ({"name": "x" * 201}, "/name"),
        ({"role": "admin"}, "/role"),
    ],
)
def test_a_bad_registration_is_refused(people: People, fields: dict[str, object], pointer: str) -> None:
    answer = people.nobody.post("/auth/register", json={"email": people.email(), "password": PASSWORD, **fields})

    assert problem(answer) == (422, "validation")
    assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]

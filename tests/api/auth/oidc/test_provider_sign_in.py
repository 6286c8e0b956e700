"""Signing in with a provider: npm's `oidc-provider` runs, and a browser of the tests goes through its pages."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import httpx2
import pytest

from shared.settings import Settings
from tests.api.people import CHEAP_HASHES, PASSWORD, People, open_database
from tests.conftest import Api, serve_api
from tests.needed_programs import find_program

INSTALL = "tests/api/openapi/generators/install"
COOKIE = "__Host-taskmill-sign-in"
GRANTS = [
    {"claim": "groups", "value": "it", "organization": "Acme", "role": "operator"},
    {"claim": "groups", "value": "leads", "organization": "Acme", "role": "admin"},
    {"claim": "groups", "value": "it", "organization": "Beta", "role": "viewer"},
    {"claim": "groups", "value": "platform", "platform_role": "operator"},
]
pytestmark = pytest.mark.needs_program("node", "oidc-provider", install=INSTALL)


@dataclass
class Provider:
    """A running provider, with the claims of its accounts in a file."""

    issuer: str
    accounts: Path

    def put(self, login: str, **claims: Any) -> None:
        known = json.loads(self.accounts.read_text())
        self.accounts.write_text(json.dumps(known | {login: claims}))

    def rotate_keys(self) -> None:
        assert httpx2.post(f"{self.issuer}/test/rotate").status_code == 204


@dataclass
class Browser:
    """Goes through a sign-in, step by step."""

    api: httpx2.Client
    provider: Provider

    def begin(self, **query: str) -> tuple[str, str]:
        """Return the URL of the provider, and the cookie."""
        answer = self.api.get("/auth/oidc/login", params=query)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"], _cookie_of(answer)

    def visit(self, url: str, login: str) -> dict[str, str]:
        """Sign in at the provider, and return the query with which it sends the browser back."""
        with httpx2.Client(follow_redirects=False) as browser:
            answer = browser.get(url)
            for _ in range(20):
                if answer.is_redirect:
                    target = httpx2.URL(answer.url).join(answer.headers["location"])
                    if target.path == "/auth/oidc/callback":
                        return dict(parse_qsl(urlsplit(str(target)).query))
                    answer = browser.get(target)
                    continue
                assert answer.status_code == 200, answer.text
                action = re.search(r'action="([^"]+)"', answer.text)
                prompt = re.search(r'name="prompt" value="([^"]+)"', answer.text)
                assert action is not None and prompt is not None, answer.text
                form = {"prompt": prompt[1], "login": login, "password": "anything"}
                answer = browser.post(httpx2.URL(answer.url).join(action[1]), data=form)
        raise AssertionError("the provider does not come to an end")

    def come_back(self, query: dict[str, str], cookie: str | None) -> httpx2.Response:
        headers = {} if cookie is None else {"Cookie": f"{COOKIE}={cookie}"}
        return self.api.get("/auth/oidc/callback", params=query, headers=headers)

    def sign_in(self, login: str, **query: str) -> httpx2.Response:
        url, cookie = self.begin(**query)
        return self.come_back(self.visit(url, login), cookie)


def _cookie_of(answer: httpx2.Response) -> str:
    header = answer.headers["set-cookie"]
    assert header.startswith(f"{COOKIE}=")
    for attribute in ("HttpOnly", "Secure", "SameSite=lax", "Path=/"):
        assert attribute.lower() in header.lower()
    return header.partition("=")[2].partition(";")[0]


@pytest.fixture(scope="module")
def provider(module_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Provider]:
    accounts = tmp_path_factory.mktemp("provider") / "accounts.json"
    accounts.write_text("{}")
    node, package = find_program("node"), find_program("oidc-provider")
    assert node is not None and package is not None
    script = Path(__file__).with_name("provider.mjs")
    module = (Path(package) / "lib" / "index.js").as_uri()
    process = subprocess.Popen(
        [node, script, module, accounts, f"{module_settings.public_url}/auth/oidc/callback"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        issuer = next((line.split()[1] for line in process.stdout if line.startswith("issuer ")), None)
        assert issuer is not None, "the provider did not start"
        yield Provider(issuer, accounts)
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="module")
def provider_settings(module_settings: Settings, provider: Provider) -> Settings:
    values = {
        "OIDC_ISSUER": provider.issuer,
        "OIDC_CLIENT_ID": "taskmill-test",
        "OIDC_CLIENT_SECRET": "a secret of the tests only",
        "OIDC_GRANTS": json.dumps(GRANTS),
    }
    fields = {name.lower(): value for name, value in values.items()}
    return Settings(**{**module_settings.model_dump(), **CHEAP_HASHES, **fields})


@pytest.fixture(scope="module")
def served_provider(provider_settings: Settings) -> Iterator[Api]:
    with serve_api(provider_settings) as api:
        yield api


@pytest.fixture(scope="module")
def people(served_provider: Api, provider_settings: Settings) -> People:
    return People(served_provider, provider_settings)


@pytest.fixture
def browser(people: People, provider: Provider) -> Browser:
    return Browser(people.nobody, provider)


def verified(email: str, *groups: str) -> dict[str, Any]:
    return {"email": email, "email_verified": True, "name": "Ada Lovelace", "groups": list(groups)}


def problem(answer: httpx2.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def me(people: People, answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = people.api.client_with(answer.json()["access_token"]).get("/users/me").json()
    return found


def roles(person: dict[str, Any]) -> dict[str, str]:
    return {membership["organization"]: membership["role"] for membership in person["memberships"]}


def test_roles_follow_the_claims_at_each_sign_in(people: People, provider: Provider, browser: Browser) -> None:
    login, email = uuid4().hex, people.email()
    provider.put(login, **verified(email, "it", "leads"))

    first = me(people, browser.sign_in(login))
    provider.put(login, **verified(email, "it", "platform"))
    second = me(people, browser.sign_in(login))

    assert (first["email"], first["name"], first["email_verified"], first["has_password"]) == (
        email,
        "Ada Lovelace",
        True,
        False,
    )
    assert (roles(first), first["platform_role"]) == ({"Acme": "admin", "Beta": "viewer"}, None)
    assert (roles(second), second["platform_role"]) == ({"Acme": "operator", "Beta": "viewer"}, "operator")
    assert second["id"] == first["id"]


def test_a_role_that_is_granted_no_longer_ends_the_access_to_the_organization(
    people: People, provider: Provider, browser: Browser
) -> None:
    email = people.create(organization="Elsewhere")
    login = uuid4().hex
    provider.put(login, **verified(email, "it"))
    before = browser.sign_in(login, organization="Acme").json()
    client = people.api.client_with(before["access_token"])
    assert client.get("/tasks").status_code == 200

    provider.put(login, **verified(email))
    after = me(people, browser.sign_in(login))

    assert roles(after) == {"Elsewhere": "client"}
    assert people.nobody.post("/auth/refresh", json={"refresh_token": before["refresh_token"]}).status_code == 401


def test_a_subject_is_linked_to_a_verified_address_and_stays_linked(
    people: People, provider: Provider, browser: Browser
) -> None:
    email, login = people.create(), uuid4().hex
    provider.put(login, **verified(email.upper()))
    person = people.enter(email)

    linked = me(people, browser.sign_in(login))
    provider.put(login, **verified(people.email()))

    assert linked["id"] == person.id
    assert me(people, browser.sign_in(login))["id"] == person.id
    assert people.sign_in(email).status_code == 200


@pytest.mark.parametrize("claims", [{"email_verified": False}, {"email_verified": "true"}, {}])
def test_an_address_that_is_not_verified_is_not_linked(
    people: People, provider: Provider, browser: Browser, claims: dict[str, Any]
) -> None:
    login = uuid4().hex
    provider.put(login, email=people.create(), groups=["it"], **claims)

    assert problem(browser.sign_in(login)) == (403, "email-not-verified")


def test_a_second_subject_with_the_address_of_another_is_refused(
    people: People, provider: Provider, browser: Browser
) -> None:
    email, login, other = people.create(), uuid4().hex, uuid4().hex
    provider.put(login, **verified(email))
    provider.put(other, **verified(email))
    assert browser.sign_in(login).status_code == 200

    assert problem(browser.sign_in(other)) == (409, "conflict")


def test_a_password_of_an_unverified_registration_is_dropped_when_the_owner_comes(
    people: People, provider: Provider, browser: Browser, provider_settings: Settings
) -> None:
    email, login = people.create(), uuid4().hex
    with open_database(provider_settings) as connection:
        connection.execute("UPDATE people SET email_verified_at = NULL WHERE email = %s", [email])
    provider.put(login, **verified(email))

    person = me(people, browser.sign_in(login))

    assert (person["email_verified"], person["has_password"]) == (True, False)
    assert problem(people.sign_in(email, PASSWORD)) == (401, "invalid-credentials")


def test_people_without_a_grant_or_an_account_are_not_admitted(
    people: People, provider: Provider, browser: Browser
) -> None:
    login = uuid4().hex
    provider.put(login, **verified(people.email(), "sales"))

    assert problem(browser.sign_in(login)) == (403, "registration-closed")


def test_a_disabled_person_is_refused(
    people: People, provider: Provider, browser: Browser, provider_settings: Settings
) -> None:
    login, email = uuid4().hex, people.email()
    provider.put(login, **verified(email, "it"))
    me(people, browser.sign_in(login))
    with open_database(provider_settings) as connection:
        connection.execute("UPDATE people SET disabled_at = now() WHERE email = %s", [email])

    assert problem(browser.sign_in(login)) == (403, "forbidden")


def test_a_callback_counts_once_and_only_in_the_browser_that_began(
    people: People, provider: Provider, browser: Browser
) -> None:
    login = uuid4().hex
    provider.put(login, **verified(people.email(), "it"))
    url, cookie = browser.begin()
    _, cookie_of_another = browser.begin()
    query = browser.visit(url, login)

    for foreign in (None, "", "tmo_" + "x" * 43, cookie_of_another):
        assert problem(browser.come_back(query, foreign)) == (401, "invalid-credentials")
    assert problem(browser.come_back(query | {"state": query["state"][:-1]}, cookie)) == (401, "invalid-credentials")
    assert browser.come_back(query | {"session_state": "ignored"}, cookie).status_code == 200
    assert problem(browser.come_back(query, cookie)) == (401, "invalid-credentials")


def test_a_refusal_a_wrong_code_and_another_issuer_end_the_sign_in(browser: Browser) -> None:
    for change in ({"error": "access_denied"}, {"code": "wrong"}, {"code": "x", "iss": "https://evil.example"}, {}):
        url, cookie = browser.begin()
        state = dict(parse_qsl(urlsplit(url).query))["state"]

        answer = browser.come_back({"state": state, **change}, cookie)

        assert problem(answer) == (401, "invalid-credentials")
        assert problem(browser.come_back({"state": state, "code": "x"}, cookie)) == (401, "invalid-credentials")


def test_a_browser_is_sent_back_to_a_path_with_the_refresh_token_in_a_cookie(
    people: People, provider: Provider, browser: Browser
) -> None:
    login = uuid4().hex
    provider.put(login, **verified(people.email(), "it"))

    answer = browser.sign_in(login, return_to="/docs?deep=1", scope="tasks:read")

    cookies = answer.headers.get_list("set-cookie")
    assert (answer.status_code, answer.headers["location"], answer.content) == (303, "/docs?deep=1", b"")
    assert [cookie.partition("=")[0] for cookie in cookies] == ["__Host-taskmill-refresh", COOKIE]
    assert "max-age=0" in cookies[1].lower()
    refresh = cookies[0].partition(";")[0]
    renewed = people.nobody.post("/auth/refresh", headers={"Cookie": refresh, "Sec-Fetch-Site": "same-origin"})
    assert renewed.json()["scope"] == "tasks:read"


@pytest.mark.parametrize("path", ["https://evil.example", "//evil.example", "/\\evil.example", "docs", "/a\nb", "/\0"])
def test_a_browser_is_not_sent_to_another_server(people: People, path: str) -> None:
    assert problem(people.nobody.get("/auth/oidc/login", params={"return_to": path})) == (422, "validation")


def test_the_provider_may_rotate_its_keys(people: People, provider: Provider, browser: Browser) -> None:
    login = uuid4().hex
    provider.put(login, **verified(people.email(), "it"))
    assert browser.sign_in(login).status_code == 200

    provider.rotate_keys()
    assert browser.sign_in(login).status_code == 200


def test_a_session_of_a_provider_ends_after_its_hours_though_it_is_refreshed(
    people: People, provider: Provider, browser: Browser, provider_settings: Settings
) -> None:
    login = uuid4().hex
    provider.put(login, **verified(people.email(), "it"))
    tokens = browser.sign_in(login).json()

    renewed = people.nobody.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).json()

    client = people.api.client_with(renewed["access_token"])
    session = next(item for item in client.get("/users/me/sessions").json()["items"] if item["current"])
    assert session["method"] == "oidc"
    with open_database(provider_settings) as connection:
        row = connection.execute(
            "SELECT expires_at - created_at < interval '25 hours' FROM sessions WHERE id = %s", [session["id"]]
        ).fetchone()
    assert row == (True,)

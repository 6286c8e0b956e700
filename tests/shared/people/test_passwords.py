"""Which passwords are accepted, and that each check of one does the same hashing work."""

from __future__ import annotations

import pytest
from pwdlib.hashers.argon2 import Argon2Hasher

from shared.people.passwords import PasswordHasher, UnacceptablePassword, check_new_password, is_common
from shared.settings import Settings

CHEAP = {"password_time_cost": 1, "password_memory_kib": 8, "password_parallelism": 1}


@pytest.fixture(scope="module")
def hasher() -> PasswordHasher:
    return PasswordHasher(Settings.model_validate(CHEAP))


@pytest.mark.parametrize(
    ("password", "code"),
    [
        ("short", "length"),
        ("elevenchars", "length"),
        ("x" * 201, "length"),
        ("x" * 10_000, "length"),
        ("correct horse\0battery", "unusable_characters"),
        ("correct horse \ud800 battery", "unusable_characters"),
        ("Password1234", "common_password"),
        ("PASSWORDPASSWORD", "common_password"),
        ("qwertyuiop123", "common_password"),
        ("ｐａｓｓｗｏｒｄ１２３４", "common_password"),
        ("aaaaaaaaaaaaaaaa", "common_password"),
        ("xyzxyzxyzxyz", "common_password"),
        ("Ada.Lovelace@example.com", "common_password"),
    ],
)
def test_a_bad_password_is_refused_before_it_is_hashed(password: str, code: str) -> None:
    with pytest.raises(UnacceptablePassword) as refused:
        check_new_password(password, "ada.lovelace@example.com")

    assert refused.value.code == code


@pytest.mark.parametrize(
    "password", ["twelve chars", "läßt sich gut merken", "ünïcodé 密码 пароль", "y7" * 50 + "z" * 100]
)
def test_no_classes_of_characters_are_required(password: str) -> None:
    assert check_new_password(password)


def test_the_same_password_in_other_code_points_is_right(hasher: PasswordHasher) -> None:
    composed, decomposed = "caf\u00e9 au lait, please", "cafe\u0301 au lait, please"
    stored = hasher.hash(check_new_password(composed))

    assert hasher.verify(decomposed, stored)
    assert not hasher.verify("cafe au lait, please", stored)


def test_the_list_of_common_passwords_has_thousands_of_useful_entries() -> None:
    assert is_common("administrator123")
    assert not is_common("seven quiet otters")


@pytest.mark.parametrize(
    "password", ["right horse battery", "wrong horse battery", "x" * 10_000, "", "short", "lone \ud800 surrogate"]
)
def test_an_unknown_account_costs_the_same_hashing_as_a_known_one(
    hasher: PasswordHasher, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = hasher.hash("right horse battery")
    parameters: list[str] = []
    verify = Argon2Hasher.verify

    def count(self: Argon2Hasher, password: str | bytes, hash: str | bytes) -> bool:
        parameters.append(str(hash).rsplit("$", 2)[0])
        return verify(self, password, hash)

    monkeypatch.setattr(Argon2Hasher, "verify", count)

    assert hasher.verify(password, stored) is (password == "right horse battery")
    assert hasher.verify(password, None) is False
    assert parameters == ["$argon2id$v=19$m=8,t=1,p=1"] * 2


def test_a_hash_with_other_parameters_is_outdated(hasher: PasswordHasher) -> None:
    stronger = PasswordHasher(Settings.model_validate({**CHEAP, "password_time_cost": 2}))
    stored = hasher.hash("right horse battery")

    assert not hasher.is_outdated(stored)
    assert stronger.is_outdated(stored)
    assert stronger.verify("right horse battery", stored)

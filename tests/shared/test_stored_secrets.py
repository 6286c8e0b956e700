from __future__ import annotations

import pytest
from pydantic import SecretStr, ValidationError

from shared.settings import Settings
from shared.stored_secrets import SecretCipher, UnreadableSecret

OLD, NEW = "old:" + "1" * 64, "new:" + "2" * 64


def cipher(keys: str = "", secret_key: str = "a secret") -> SecretCipher:
    return SecretCipher(Settings(encryption_keys=SecretStr(keys), secret_key=SecretStr(secret_key)))


def test_a_secret_is_encrypted_anew_each_time_and_decrypts_to_itself() -> None:
    stored = [cipher(NEW).encrypt("whsec_ä", "webhook") for _ in range(2)]

    assert stored[0] != stored[1]
    assert all(value.startswith("v1:new:") and "whsec" not in value for value in stored)
    assert cipher(NEW).decrypt(stored[0], "webhook") == "whsec_ä"


def test_the_first_key_encrypts_and_older_ones_still_decrypt() -> None:
    stored = cipher(OLD).encrypt("secret", "webhook")

    rotated = cipher(f"{NEW},{OLD}")

    assert rotated.decrypt(stored, "webhook") == "secret"
    assert rotated.encrypt("secret", "webhook").startswith("v1:new:")
    with pytest.raises(UnreadableSecret, match="no key named 'old'"):
        cipher(NEW).decrypt(stored, "webhook")


def test_what_the_derived_key_encrypted_stays_readable_once_keys_are_set() -> None:
    stored = cipher().encrypt("secret", "webhook")

    assert cipher(NEW).decrypt(stored, "webhook") == "secret"
    with pytest.raises(UnreadableSecret, match="has changed"):
        cipher(secret_key="another").decrypt(stored, "webhook")


def test_a_secret_of_another_purpose_or_a_changed_one_is_refused() -> None:
    stored = cipher(NEW).encrypt("secret", "webhook")

    for value, purpose in [(stored, "login"), (stored[:-6] + "AAAA==", "webhook"), ("v2" + stored[2:], "webhook")]:
        with pytest.raises(UnreadableSecret):
            cipher(NEW).decrypt(value, purpose)


@pytest.mark.parametrize("keys", ["1" * 64, "name:short", "a b:" + "1" * 64, f"{OLD},{OLD}"])
def test_keys_of_another_form_are_refused_without_showing_them(keys: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Settings(encryption_keys=SecretStr(keys))

    assert "1" * 64 not in str(raised.value)

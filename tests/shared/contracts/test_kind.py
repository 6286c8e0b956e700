"""The checks that all kinds share."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.contracts.platform.ping import PingResult


def test_the_error_of_an_invalid_result_does_not_quote_its_values() -> None:
    with pytest.raises(ValidationError) as failed:
        PingResult.model_validate({"echo": ["ada@example.com"]})

    assert "echo" in str(failed.value)
    assert "ada@example.com" not in str(failed.value)

"""What kinds have in common."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from shared.contracts.platform.ping import PingResult


def test_the_error_of_a_result_that_does_not_fit_quotes_nothing_of_it() -> None:
    with pytest.raises(ValidationError) as failed:
        PingResult.model_validate({"echo": ["ada@example.com"]})

    assert "echo" in str(failed.value)
    assert "ada@example.com" not in str(failed.value)

from __future__ import annotations

import resource

from api.serve import raise_open_file_limit


def test_the_api_may_open_as_many_files_as_the_system_permits() -> None:
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(before, hard) // 2, hard))
    try:
        raise_open_file_limit()

        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))

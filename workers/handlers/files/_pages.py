"""Resolves the param `pages` of `files.extract_text`."""

from __future__ import annotations

from workers.handlers.files._errors import no_such_page


def choose_pages(wanted: list[int | str] | None, pages: int) -> list[int]:
    """Return the numbers of the requested pages, counted from 1, in their order and each once; all pages for None.

    Raises `/problems/no-such-page` before a range is expanded, so that a long range costs nothing.
    """
    if wanted is None:
        return list(range(1, pages + 1))
    chosen: dict[int, None] = {}
    for item in wanted:
        first, last = (item, item) if isinstance(item, int) else map(int, item.split("-"))
        if last > pages:
            raise no_such_page(last, pages)
        chosen.update(dict.fromkeys(range(first, last + 1)))
    return list(chosen)

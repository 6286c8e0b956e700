"""Chooses pages, as the params of `files.extract_text` name them."""

from __future__ import annotations

from workers.handlers.files._errors import no_such_page


def choose_pages(wanted: list[int | str] | None, pages: int) -> list[int]:
    """Give the numbers of the pages that are wanted, from 1, in that order, each once.

    Raises `/problems/no-such-page` before a range is spelled out, so that its length costs nothing.
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

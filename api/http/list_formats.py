"""Lists as JSON, NDJSON or CSV, as the header `Accept` asks.

JSON has one page. NDJSON (one JSON object in each line) and CSV also have one page if the request has a `limit`, with the
address of the next one in the header `Link` (RFC 8288); without a `limit` they have the whole list, which is read and sent
page by page, so that its length costs no memory. A list without pages, such as that of the queues, has everything in each
format.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final, NamedTuple
from urllib.parse import urlencode
from uuid import UUID

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from api.http.answers import PRIVATE_HEADERS, AnswerModel, json_page
from api.http.cursors import read_cursor, write_cursor
from api.http.headers import find_header
from api.http.problems import Problem
from api.http.query_strings import PageQuery
from shared.csv_text import csv_text
from shared.settings import Settings

PAGE_SIZE: Final = 50
STREAMED_PAGE_SIZE: Final = 200


class ListFormat(StrEnum):
    """The media types of a list."""

    JSON = "application/json"
    NDJSON = "application/x-ndjson"
    CSV = "text/csv"


class Page(NamedTuple):
    """One page of a list: each item as JSON, and the id after which the next page begins, if there is one."""

    items: Sequence[bytes]
    last_id: UUID | None


ReadPage = Callable[[UUID | None, int], Awaitable[Page]]
"""Returns the page after an id, with at most so many items."""

Columns = Mapping[str, Sequence[str]]
"""The columns of a list as CSV: the path of each one's value in the JSON of an item."""


def columns_of(model: type[AnswerModel], *left_out: str) -> Columns:
    """Return a column for each field of the model of an item, but for those left out, such as `links`."""
    return {name: (name,) for name in model.model_fields if name not in left_out}


def dump_item(item: AnswerModel) -> bytes:
    """Return an item as JSON, as `private_answer` writes it."""
    return item.model_dump_json(exclude_unset=True).encode()


def make_page(rows: Sequence[Any], limit: int, model: Callable[[Any], AnswerModel]) -> Page:
    """Return the page of the first `limit` rows, each as `model` describes it. A row beyond them says that a page follows."""
    return Page([dump_item(model(row)) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None)


FORMAT_RESPONSES: Final[dict[str, Any]] = {
    ListFormat.NDJSON: {"schema": {"type": "string", "description": "One item as a JSON object in each line."}},
    ListFormat.CSV: {"schema": {"type": "string", "description": "A header, and one item in each line."}},
}
"""The content of the answer 200 beside JSON."""
ACCEPT: Final[dict[str, Any]] = {
    "name": "Accept",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "`application/json` (one page), `application/x-ndjson` or `text/csv` (one page with `limit`, else the "
    "whole list).",
}


def choose_format(accept: str | None) -> ListFormat:
    """Return the format of the highest quality in `Accept` (RFC 9110, section 12.5.1); JSON comes first among equals.

    Raises the problem `not-acceptable` if the header accepts none of them.
    """
    if accept is None or not accept.strip():
        return ListFormat.JSON
    ranges = [_read_range(part) for part in accept.lower().split(",")]
    best = max(ListFormat, key=lambda form: _find_quality(form, ranges))
    if _find_quality(best, ranges) <= 0:
        names = ", ".join(ListFormat)
        raise Problem("not-acceptable", f"This list has the formats {names}, and the header Accept names none of them.")
    return best


def _read_range(text: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return media_range, float(value)
            except ValueError:
                return media_range, 0.0
    return media_range, 1.0


def _find_quality(form: ListFormat, ranges: Sequence[tuple[str, float]]) -> float:
    """Return the quality of the most specific range that names the format, or 0."""
    names = (form.value, form.value.split("/")[0] + "/*", "*/*")
    for name in names:
        if qualities := [quality for media_range, quality in ranges if media_range == name]:
            return max(qualities)
    return 0.0


_VARY: Final = {**PRIVATE_HEADERS, "Vary": PRIVATE_HEADERS["Vary"] + ", Accept"}


def answer_whole_list(
    request: Request, answer: AnswerModel, items: Sequence[AnswerModel], columns: Columns
) -> Response:
    """Return a list without pages in the format that the request accepts: `answer` as JSON, else its items alone."""
    return answer_whole_json(request, dump_item(answer), [dump_item(item) for item in items], columns)


def answer_whole_json(request: Request, answer: bytes, items: Sequence[bytes], columns: Columns) -> Response:
    """Return a list as `answer_whole_list` does, whose answer and items are JSON already."""
    form = choose_format(find_header(request, "accept"))
    body = answer if form is ListFormat.JSON else _write(form, items, columns)
    return Response(body, headers=_VARY, media_type=_media_type(form))


async def answer_list(
    request: Request, settings: Settings, query: PageQuery, *, read: ReadPage, columns: Columns
) -> Response:
    """Return the page of a list that the query names, or the whole list, in the format that the request accepts.

    Raises the problem `validation` for an invalid cursor, and `not-acceptable`.
    """
    after = read_cursor(settings, query.cursor) if query.cursor is not None else None
    limit = query.limit
    form = choose_format(find_header(request, "accept"))
    headers = dict(_VARY)
    whole = form is not ListFormat.JSON and limit is None
    first = await read(after, STREAMED_PAGE_SIZE if whole else limit or PAGE_SIZE)
    cursor = write_cursor(settings, first.last_id) if first.last_id is not None else None
    if form is ListFormat.JSON:
        body = json_page([orjson.Fragment(item) for item in first.items], cursor)
        return Response(body, headers=headers, media_type=_media_type(form))
    if whole:
        return StreamingResponse(_iterate(form, first, read, columns), headers=headers, media_type=_media_type(form))
    if cursor is not None:
        headers["Link"] = f'<{_next_address(request, cursor)}>; rel="next"'
    return Response(_write(form, first.items, columns), headers=headers, media_type=_media_type(form))


def _media_type(form: ListFormat) -> str:
    return form.value + ("; charset=utf-8; header=present" if form is ListFormat.CSV else "")


async def _iterate(form: ListFormat, page: Page, read: ReadPage, columns: Columns) -> AsyncIterator[bytes]:
    yield _write(form, page.items, columns)
    while page.last_id is not None:
        page = await read(page.last_id, STREAMED_PAGE_SIZE)
        yield _write(form, page.items, columns, with_header=False)


def _write(form: ListFormat, items: Sequence[bytes], columns: Columns, *, with_header: bool = True) -> bytes:
    if form is ListFormat.NDJSON:
        return b"".join(item + b"\n" for item in items)
    rows = [",".join(map(csv_text, columns))] if with_header else []
    rows += [",".join(_cell(item, path) for path in columns.values()) for item in map(orjson.loads, items)]
    return "".join(row + "\r\n" for row in rows).encode()


def _cell(item: Any, path: Sequence[str]) -> str:
    """Return the cell of a value: empty for null, and compact JSON for an object or a list."""
    for name in path:
        item = item.get(name) if isinstance(item, dict) else None
    if item is None:
        return ""
    return csv_text(item if isinstance(item, str) else orjson.dumps(item).decode())


def _next_address(request: Request, cursor: str) -> str:
    pairs = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    return f"{request.url.path}?{urlencode([*pairs, ('cursor', cursor)])}"

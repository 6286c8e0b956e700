"""`files.extract_text`: takes the text out of a PDF or a text file. `KIND` explains its errors."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from shared.contracts.kind import FileReference, Kind, Params, Result

READABLE_TYPES = ("application/pdf", "text/*", "application/json")


def _name_one_error(pages: object, validate: ValidatorFunctionWrapHandler) -> int | str:
    """Answer for both forms of pages at once, at the place of the item and not below it."""
    try:
        valid: int | str = validate(pages)
    except ValidationError:
        raise PydanticCustomError("page_form", 'Pages are numbers from 1, or ranges such as "2-5"') from None
    if isinstance(valid, str):
        first, last = (int(number) for number in valid.split("-"))
        if first > last:
            raise PydanticCustomError("range_descending", "A range of pages must ascend")
    return valid


PageNumber = Annotated[int, Field(strict=True, ge=1, le=9_999_999)]
PageRange = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}-[1-9][0-9]{0,6}$")]
Pages = Annotated[PageNumber | PageRange, WrapValidator(_name_one_error)]


class ExtractTextParams(Params):
    """Which file, and which of its pages."""

    file_id: Annotated[
        UUID,
        FileReference(accepts=READABLE_TYPES),
        Field(description="A stored PDF document or text of any encoding; what marks up a text stays in it."),
    ]
    pages: Annotated[
        list[Pages] | None,
        Field(
            min_length=1,
            max_length=1000,
            description='The pages to take, in this order, each once: numbers from 1, or ranges such as `"2-5"`. All, '
            "unless given. In a text file form feeds part the pages.",
        ),
    ] = None


class ExtractTextResult(Result):
    """How much text there is."""

    pages: Annotated[int, Field(description="How many pages were taken.")]
    characters: Annotated[
        int, Field(description="Unicode characters in `text.txt`, ends of lines and form feeds counted too.")
    ]


KIND = Kind(
    params=ExtractTextParams,
    result=ExtractTextResult,
    title="Extract text",
    description=(
        "Takes the text out of a PDF or a text file, as the artifact `text.txt`: UTF-8, lines ended by line feeds, "
        "pages parted by form feeds. Text that is only a picture in the PDF is not read. Fails with "
        "`/problems/unreadable-pdf` when the document is damaged, `/problems/encrypted-pdf` when it asks for a "
        "password, `/problems/unreadable-text` when the bytes are no text, `/problems/no-such-page` when a page lies "
        "beyond the end (data: `pages`), and `/problems/output-too-large` when there is more text than one task may "
        "make (data: `most_bytes`)."
    ),
    queue="files",
    timeout_seconds=300,
    errors={
        "unreadable-pdf": "The PDF document is damaged or cut short.",
        "encrypted-pdf": "The PDF document cannot be read without a password. Remove that, and submit it again.",
        "unreadable-text": "The bytes are no text in any known encoding.",
        "no-such-page": "A page was asked for that lies beyond the end. `data.pages` says how many there are.",
        "output-too-large": "The work made more than one task may. For a text, `data.most_bytes` says how much.",
    },
)

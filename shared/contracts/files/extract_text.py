"""`files.extract_text`: extracts the text of a PDF or a text file. `KIND` lists its errors."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError

from shared.contracts.kind import FileReference, Kind, Params, Result
from shared.contracts.text_encodings import ENCODING_DESCRIPTION, EncodingName

READABLE_TYPES = ("application/pdf", "text/*", "application/json")


def _validate_pages_item(pages: object, validate: ValidatorFunctionWrapHandler) -> int | str:
    """Return an item of `pages`. Raises one error that names both of its forms, instead of an error for each form."""
    try:
        valid: int | str = validate(pages)
    except ValidationError:
        raise PydanticCustomError("page_form", 'Pages are numbers from 1, or ranges such as "2-5"') from None
    if isinstance(valid, str):
        first, last = (int(number) for number in valid.split("-"))
        if first > last:
            raise PydanticCustomError("range_descending", 'A range of pages must be ascending, such as "2-5"')
    return valid


PageNumber = Annotated[int, Field(strict=True, ge=1, le=9_999_999)]
PageRange = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,6}-[1-9][0-9]{0,6}$")]
Pages = Annotated[PageNumber | PageRange, WrapValidator(_validate_pages_item)]


class ExtractTextParams(Params):
    """The file, and the pages to extract."""

    file_id: Annotated[
        UUID,
        FileReference(accepts=READABLE_TYPES),
        Field(description="A stored PDF document, or a text in any encoding. Markup in a text is kept."),
    ]
    pages: Annotated[
        list[Pages] | None,
        Field(
            min_length=1,
            max_length=1000,
            description='The pages to extract, in this order and each once: numbers from 1, or ranges such as `"2-5"`. '
            "All pages by default. In a text file, pages are separated by form feeds.",
        ),
    ] = None
    encoding: Annotated[
        EncodingName | None, Field(description=ENCODING_DESCRIPTION + " A PDF document needs none.")
    ] = None


class ExtractTextResult(Result):
    """How much text was extracted."""

    pages: Annotated[int, Field(description="The number of pages that were extracted.")]
    characters: Annotated[
        int, Field(description="The number of Unicode characters in `text.txt`, including line ends and form feeds.")
    ]
    encoding: Annotated[
        str | None,
        Field(description="The character encoding of a text file, as IANA names it in small letters; null for a PDF."),
    ] = None
    replaced_bytes: Annotated[
        int,
        Field(ge=0, description="How many bytes are not valid in the encoding. U+FFFD stands for them in the text."),
    ] = 0


KIND = Kind(
    params=ExtractTextParams,
    result=ExtractTextResult,
    title="Extract text",
    description=(
        "Extracts the text of a PDF or a text file into the artifact `text.txt`: UTF-8, pages separated by form "
        "feeds. The text of a PDF keeps its lines, each ended by a line feed, and the hyphens at their ends. Values of form fields "
        "and visible annotations are part of it, next to the text beside them; a checked check box is `☑`. "
        "Passwords, hidden fields, comments and text that is only a picture are not. Fails with "
        "`/problems/unreadable-pdf` if the document is damaged, `/problems/encrypted-pdf` if it needs a password, "
        "`/problems/unreadable-text` if the file is not text, `/problems/no-such-page` if a page is beyond the last one "
        "(data: `pages`), and `/problems/output-too-large` if there is more text than one task may write (data: "
        "`most_bytes`)."
    ),
    example={"file_id": "0199c0de-0000-7000-8000-000000000001", "pages": [1, "3-5"]},
    queue="files",
    timeout_seconds=300,
    errors={
        "unreadable-pdf": "The PDF document is damaged or cut short. Upload it again, or save it anew and upload that.",
        "encrypted-pdf": "The PDF document cannot be read without a password. Remove the password, and upload it again.",
        "unreadable-text": "The file is neither a PDF document nor a text in a known encoding.",
        "no-such-page": "A requested page is beyond the last one. `data.pages` is the number of pages in the document.",
        "output-too-large": "The task would write more than one task may. For a text, `data.most_bytes` is the limit.",
    },
)

"""`files.inspect`: returns facts about a stored file, from its bytes. `KIND` lists its errors."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from shared.contracts.kind import FileId, Kind, Params, Result
from shared.contracts.text_encodings import ENCODING_DESCRIPTION, EncodingName


class InspectParams(Params):
    """The file, and what to return of it."""

    file_id: Annotated[FileId, Field(description="The stored file to inspect, of any type.")]
    include_gps: Annotated[
        bool, Field(description="Whether `image.exif` contains the place where a picture was taken, as `GPSInfo`.")
    ] = False
    header: Annotated[
        bool,
        Field(
            description="For CSV: whether the first line holds the names of the columns. If not, they are called "
            "`column0`, `column1` and so on."
        ),
    ] = True
    encoding: Annotated[EncodingName | None, Field(description=ENCODING_DESCRIPTION)] = None


class ImageFacts(Result):
    """Facts about a picture."""

    width: Annotated[int, Field(description="Width in pixels, before `orientation` is applied.")]
    height: Annotated[int, Field(description="Height of one frame in pixels, before `orientation` is applied.")]
    format: Annotated[str, Field(description="`jpeg`, `png`, `webp`, `avif`, `gif`, `tiff`, `bmp`, `heic` or `heif`.")]
    frames: Annotated[
        int,
        Field(description="The number of pictures in the file: frames of an animation, or pages of a TIFF."),
    ]
    orientation: Annotated[int, Field(ge=1, le=8, description="The orientation as EXIF numbers it; 1 is upright.")]
    has_alpha: Annotated[bool, Field(description="Whether it has an alpha channel or transparent areas.")]
    exif: Annotated[
        dict[str, Any],
        Field(
            description="EXIF fields by their names in the EXIF standard, without `GPSInfo` unless `include_gps` is true."
        ),
    ]


class PdfFacts(Result):
    """Facts about a PDF document."""

    pages: Annotated[
        int | None, Field(description="The number of pages; null if it cannot be read without a password.")
    ]
    title: Annotated[str | None, Field(description="Its title, if it has one that can be read without a password.")]
    encrypted: Annotated[bool, Field(description="Whether it is encrypted, also with an empty password.")]


class ColumnFacts(Result):
    """One column of a table."""

    name: Annotated[str, Field(description="Its name, from the header where there is one.")]
    type: Annotated[
        str,
        Field(
            description="The type that its values have, as DuckDB names it and `reports.run` reads them, such as "
            "`BIGINT`. Dates that do not begin with the four digits of a year are texts: `VARCHAR`."
        ),
    ]
    nulls: Annotated[int, Field(description="How many rows have no value in it.")]


ReplacedBytes = Annotated[
    int, Field(ge=0, description="How many bytes are not valid in the encoding. U+FFFD stands for them in the text.")
]


class TableFacts(Result):
    """The rows and columns of a CSV, Parquet or JSON file."""

    rows: Annotated[int, Field(description="How many rows there are, without the header.")]
    columns: Annotated[list[ColumnFacts], Field(description="The columns, in the file's order.")]
    encoding: Annotated[
        str | None, Field(description="The character encoding, named as in `text.encoding`; null for Parquet.")
    ] = None
    replaced_bytes: ReplacedBytes = 0


class TextFacts(Result):
    """Facts about a text."""

    encoding: Annotated[
        str,
        Field(
            description="The character encoding, as IANA names it in small letters; ASCII is `utf-8` too. A byte order mark "
            "decides, or the null bytes of UTF-16 and UTF-32. Otherwise a text is UTF-8 if all of its bytes are, or most of "
            "those beyond ASCII. Any other text is in the encoding in which its letters are the likeliest words, and in "
            "doubt in `windows-1252`, which contains Latin-1."
        ),
    ]
    lines: Annotated[int, Field(description="How many lines there are. The last one may have no line end.")]
    replaced_bytes: ReplacedBytes = 0


class InspectResult(Result):
    """Facts about the file. At most one of `image`, `pdf`, `table` and `text` is not null."""

    media_type: Annotated[str, Field(description="The media type that was detected from the bytes.")]
    size: Annotated[int, Field(description="The size in bytes.")]
    sha256: Annotated[str, Field(description="SHA-256 of the bytes, in hexadecimal.")]
    image: Annotated[ImageFacts | None, Field(description="For pictures, except SVG.")] = None
    pdf: Annotated[PdfFacts | None, Field(description="For PDF documents.")] = None
    table: Annotated[TableFacts | None, Field(description="For CSV, Parquet, JSON arrays and lines of JSON.")] = None
    text: Annotated[TextFacts | None, Field(description="For any other text.")] = None


KIND = Kind(
    params=InspectParams,
    result=InspectResult,
    title="Inspect a file",
    description=(
        "Returns facts about a stored file, from its bytes: media type, size and checksum, and more about a picture, a "
        "PDF, a table or a text. A table is read as `reports.run` reads it, and text is described with its encoding and "
        "the number of bytes that are not valid in it. The first frame of a picture is read to its end, so that a "
        "truncated file is found. Fails with `/problems/unreadable-image`, `/problems/unreadable-pdf` or "
        "`/problems/unreadable-table` if the file is damaged, with `/problems/unsupported-image` (data: `pixels`) if a "
        "picture has a kind of pixels that cannot be read, and with `/problems/image-too-large` (data: `width`, `height`, "
        "`most_pixels`) if a picture has more pixels than are read."
    ),
    example={"file_id": "0199c0de-0000-7000-8000-000000000001"},
    queue="files",
    timeout_seconds=300,
    errors={
        "unreadable-image": "The picture is damaged or cut short, or the file is not a picture of a supported format.",
        "unsupported-image": "The picture is whole, but `data.pixels`, such as complex numbers, cannot be converted.",
        "image-too-large": (
            "The picture has more pixels than are read, which its header decides: `data` has `width`, `height` and "
            "`most_pixels`. Or a variant would have more than its format can hold: `data` has `variant`, `width` and "
            "`height`."
        ),
        "unreadable-pdf": "The PDF document is damaged or cut short. Upload it again, or save it anew and upload that.",
        "unreadable-table": (
            "The CSV, Parquet or JSON is damaged, its rows do not fit each other, or it is not in the requested "
            "encoding. The detail names the line at fault, where one is."
        ),
        "unreadable-text": "The bytes are not text in a known encoding, or not in the requested one.",
        "output-too-large": "The task would write more than one task may. For a text, `data.most_bytes` is the limit.",
    },
)

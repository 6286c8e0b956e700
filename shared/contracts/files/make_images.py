"""`files.make_images`: makes pictures of other sizes and formats from one. `KIND` lists its errors."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.contracts.files._image_formats import DECODED_TYPES, MOST_PIXELS, OutputFormat, find_writing
from shared.contracts.kind import FileReference, Kind, Params, Result

READABLE_TYPES = DECODED_TYPES
Fit = Literal["inside", "cover", "contain", "fill"]

LONGEST_EDGE = 16_384


class Variant(Params):
    """A picture to make."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            description="The name of the artifact without its extension. It must differ from the names of all other variants; "
            "upper and lower case are the same.",
        ),
    ]
    width: Annotated[
        int | None,
        Field(
            ge=1,
            le=LONGEST_EDGE,
            description="Pixels. Without it `height` decides; without both the picture keeps its size.",
        ),
    ] = None
    height: Annotated[
        int | None,
        Field(
            ge=1,
            le=LONGEST_EDGE,
            description="Pixels. Without it `width` decides; without both the picture keeps its size.",
        ),
    ] = None
    fit: Annotated[
        Fit,
        Field(
            description="How the picture is fitted to the box of `width` and `height`. `inside`: as large as fits into "
            "the box, with its aspect ratio. `cover`: fills the box with its aspect ratio, and is cropped evenly. "
            "`contain`: like `inside`, and padded to the box. `fill`: stretched to the box. All but `inside` need both "
            "`width` and `height`."
        ),
    ] = "inside"
    format: Annotated[OutputFormat, Field(description="The format to write.")]
    quality: Annotated[
        int | None,
        Field(
            ge=1,
            le=100,
            description="For `jpeg` (default 82), `webp` (80) and `avif` (55). `png` is lossless and has no quality.",
        ),
    ] = None
    background: Annotated[
        str | None,
        Field(
            pattern=r"^#[0-9a-fA-F]{6}$",
            description="`#rrggbb`: the colour of transparent areas and of the padding of `contain`. By default, both are "
            "transparent if the picture and the format have transparency, and white otherwise.",
        ),
    ] = None
    enlarge: Annotated[
        bool,
        Field(
            description="Whether a picture smaller than the box is enlarged. If not, `cover` and `fill` may produce less "
            "than the box; `contain` still pads to it."
        ),
    ] = False

    @model_validator(mode="after")
    def _require_a_possible_box(self) -> Variant:
        if self.fit != "inside" and (self.width is None or self.height is None):
            lacking = "width" if self.width is None else "height"
            raise _error_at(
                (lacking,), "box_incomplete", f"With fit '{self.fit}' both width and height are needed", None
            )
        if (self.width or 1) * (self.height or 1) > MOST_PIXELS:
            raise _error_at(("width",), "box_too_large", f"A variant may have {MOST_PIXELS} pixels at most", self.width)
        if max(self.width or 1, self.height or 1) > (most := find_writing(self.format).longest_edge):
            message = f"A side of a picture in the format {self.format} may have {most} pixels at most"
            raise _error_at(("format",), "box_too_large", message, self.format)
        return self


def _refuse_equal_names(variants: list[Variant]) -> list[Variant]:
    seen: set[str] = set()
    for position, variant in enumerate(variants):
        if variant.name.casefold() in seen:
            raise _error_at((position, "name"), "name_repeated", "Another variant has this name", variant.name)
        seen.add(variant.name.casefold())
    return variants


def _error_at(location: tuple[int | str, ...], code: str, message: str, value: object) -> ValidationError:
    """Return a validation error at a place below the validated object, so that its JSON pointer is exact."""
    detail = InitErrorDetails(type=PydanticCustomError(code, message), loc=location, input=value)
    return ValidationError.from_exception_data("variants", [detail])


class MakeImagesParams(Params):
    """The picture, and the variants to make of it."""

    file_id: Annotated[
        UUID,
        FileReference(accepts=READABLE_TYPES),
        Field(
            description="A stored picture: JPEG, PNG, WebP, AVIF, GIF, TIFF or BMP. Of an animation, the first frame is used."
        ),
    ]
    variants: Annotated[
        list[Variant],
        Field(min_length=1, max_length=20, description="The pictures to make."),
        AfterValidator(_refuse_equal_names),
    ]


class MadeImage(Result):
    """A picture that was made."""

    name: Annotated[str, Field(description="The variant's name; the artifact is `<name>.<extension>`.")]
    width: Annotated[int, Field(description="Pixels.")]
    height: Annotated[int, Field(description="Pixels.")]
    format: Annotated[OutputFormat, Field(description="The format. The extension of `jpeg` is `jpg`.")]
    size: Annotated[int, Field(description="Bytes.")]


class MakeImagesResult(Result):
    """The pictures that were made."""

    variants: Annotated[list[MadeImage], Field(description="The pictures, in the order of the params.")]


KIND = Kind(
    params=MakeImagesParams,
    result=MakeImagesResult,
    title="Make images",
    description=(
        "Makes up to 20 pictures of other sizes and formats from one. They are turned upright as EXIF states, converted "
        "to sRGB, and have no metadata; a picture is enlarged only on request. The artifacts are named "
        "`<name>.<extension>` (`jpg`, `png`, `webp`, `avif`). Samples with more than 8 bits are scaled to 8: from the "
        "range of their type, which is 0 to 1 for floating point, or, if the result would be black, from the least to "
        "the greatest value in the picture. Fails with `/problems/unreadable-image` if the picture is damaged, "
        "`/problems/unsupported-image` if its kind of pixels cannot be converted (data: `pixels`), and "
        "`/problems/image-too-large` if it has more pixels than are read (data: `width`, `height`, `most_pixels`) or a "
        "variant would be larger than its format can hold (data: `variant`, `width`, `height`)."
    ),
    example={
        "file_id": "0199c0de-0000-7000-8000-000000000001",
        "variants": [{"name": "thumbnail", "width": 320, "height": 320, "fit": "cover", "format": "webp"}],
    },
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
        "output-too-large": "The task would write more than one task may. For a text, `data.most_bytes` is the limit.",
    },
)

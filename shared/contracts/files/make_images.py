"""`files.make_images`: makes pictures of other sizes and formats from one. `KIND` explains its errors."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from shared.contracts.kind import FileReference, Kind, Params, Result

ImageFormat = Literal["jpeg", "png", "webp", "avif"]
Fit = Literal["inside", "cover", "contain", "fill"]

READABLE_TYPES = ("image/jpeg", "image/png", "image/webp", "image/avif", "image/gif", "image/tiff", "image/bmp")
EXTENSIONS: dict[ImageFormat, str] = {"jpeg": "jpg", "png": "png", "webp": "webp", "avif": "avif"}
LONGEST_EDGE = 16_384
MOST_PIXELS = 200_000_000


class Variant(Params):
    """One picture to make."""

    name: Annotated[
        str,
        Field(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
            description="The artifact's name without its ending; unlike that of every other variant, in capitals too.",
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
            description="How the picture meets the box of `width` and `height`. `inside`: as large as fits, its shape "
            "kept. `cover`: fills the box, its shape kept, what stands out cut off evenly. `contain`: as `inside`, and "
            "padded to the box. `fill`: stretched to the box. All but `inside` need both sides of the box."
        ),
    ] = "inside"
    format: Annotated[ImageFormat, Field(description="The format to write.")]
    quality: Annotated[
        int | None,
        Field(
            ge=1,
            le=100,
            description="Of `jpeg` (82 unless given), `webp` (80) and `avif` (55); `png` loses nothing and has none.",
        ),
    ] = None
    background: Annotated[
        str | None,
        Field(
            pattern=r"^#[0-9a-fA-F]{6}$",
            description="`#rrggbb`: fills what is transparent and what `contain` pads. Unless given, both stay "
            "transparent where the picture and the format know transparency, and are white elsewhere.",
        ),
    ] = None
    enlarge: Annotated[
        bool,
        Field(
            description="Whether a picture smaller than the box is enlarged. If not, `cover` and `fill` may give less "
            "than the box; `contain` still pads to it."
        ),
    ] = False

    @model_validator(mode="after")
    def _require_a_possible_box(self) -> Variant:
        if self.fit != "inside" and (self.width is None or self.height is None):
            lacking = "width" if self.width is None else "height"
            raise _refusal(
                (lacking,), "box_incomplete", f"With fit '{self.fit}' both width and height are needed", None
            )
        if (self.width or 1) * (self.height or 1) > MOST_PIXELS:
            raise _refusal(("width",), "box_too_large", f"A variant may have {MOST_PIXELS} pixels at most", self.width)
        if self.format == "webp" and max(self.width or 1, self.height or 1) > 16_383:
            # RFC 9649, 2.1: a WebP picture is at most 16,383 pixels wide and high.
            raise _refusal(("format",), "box_too_large", "A side of a WebP picture may have 16383 pixels", self.format)
        return self


def _refuse_equal_names(variants: list[Variant]) -> list[Variant]:
    seen: set[str] = set()
    for position, variant in enumerate(variants):
        if variant.name.casefold() in seen:
            raise _refusal((position, "name"), "name_repeated", "Another variant has this name", variant.name)
        seen.add(variant.name.casefold())
    return variants


def _refusal(location: tuple[int | str, ...], code: str, message: str, value: object) -> ValidationError:
    """Make the error of one place within what is validated, so that the answer points there."""
    detail = InitErrorDetails(type=PydanticCustomError(code, message), loc=location, input=value)
    return ValidationError.from_exception_data("variants", [detail])


class MakeImagesParams(Params):
    """Which picture, and what to make of it."""

    file_id: Annotated[
        UUID,
        FileReference(accepts=READABLE_TYPES),
        Field(
            description="A stored picture: JPEG, PNG, WebP, AVIF, GIF, TIFF or BMP; of an animation the first frame."
        ),
    ]
    variants: Annotated[
        list[Variant],
        Field(min_length=1, max_length=20, description="The pictures to make."),
        AfterValidator(_refuse_equal_names),
    ]


class MadeImage(Result):
    """One picture that was made."""

    name: Annotated[str, Field(description="The variant's name; the artifact is `<name>.<extension>`.")]
    width: Annotated[int, Field(description="Pixels.")]
    height: Annotated[int, Field(description="Pixels.")]
    format: Annotated[ImageFormat, Field(description="The format; `jpeg` has the ending `jpg`.")]
    size: Annotated[int, Field(description="Bytes.")]


class MakeImagesResult(Result):
    """What was made."""

    variants: Annotated[list[MadeImage], Field(description="The pictures, in the order of the params.")]


KIND = Kind(
    params=MakeImagesParams,
    result=MakeImagesResult,
    title="Make images",
    description=(
        "Makes up to 20 pictures of other sizes and formats from one: turned upright as EXIF says, converted to sRGB, "
        "without any metadata, and never enlarged unless asked. Artifacts are named `<name>.<extension>` (`jpg`, "
        "`png`, `webp`, `avif`). Fails with `/problems/unreadable-image` when the picture is damaged, and with "
        "`/problems/image-too-large` when it claims more pixels than are read (data: `width`, `height`, `most_pixels`) "
        "or a variant would be larger than its format can hold (data: `variant`, `width`, `height`)."
    ),
    example={
        "file_id": "0199c0de-0000-7000-8000-000000000001",
        "variants": [{"name": "thumbnail", "width": 320, "height": 320, "fit": "cover", "format": "webp"}],
    },
    queue="files",
    timeout_seconds=300,
    errors={
        "unreadable-image": "The picture is damaged or cut short, or is of no type that can be read.",
        "image-too-large": (
            "The picture claims more pixels than are read, which is judged before any is decoded: `data` has `width`, "
            "`height` and `most_pixels`. Or a variant would have more than its format can hold: `data` has `variant`, "
            "`width` and `height`."
        ),
        "output-too-large": "The work made more than one task may. For a text, `data.most_bytes` says how much.",
    },
)

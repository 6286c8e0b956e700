"""Creates variants of a picture in other sizes and formats, in a limited child."""

from __future__ import annotations

from shared.contracts.files._image_formats import find_writing
from shared.contracts.files.make_images import READABLE_TYPES, MadeImage, MakeImagesParams, MakeImagesResult
from shared.media_types import HEAD_BYTES, detect_media_type
from workers.handler_context import HandlerContext
from workers.handlers.files._errors import unreadable_image


def handle(params: MakeImagesParams, context: HandlerContext) -> MakeImagesResult:
    """Create every variant, and add each as an artifact. Raises the errors of the contract."""
    source = context.input_file(params.file_id)
    with source.path.open("rb") as stream:
        media_type = detect_media_type(stream.read(HEAD_BYTES), source.name)
    if media_type not in READABLE_TYPES:
        raise unreadable_image(
            "The file is not a picture in a supported format: JPEG, PNG, WebP, AVIF, GIF, TIFF or BMP."
        )
    paths = [
        context.scratch / f"variant-{number}.{find_writing(variant.format).extension}"
        for number, variant in enumerate(params.variants, start=1)
    ]
    answer = context.run_child(
        "workers.handlers.files._make_images",
        {
            "path": str(source.path),
            "media_type": media_type,
            "variants": [
                {**variant.model_dump(), "path": str(path)}
                for variant, path in zip(params.variants, paths, strict=True)
            ],
        },
    )
    made = [
        MadeImage(
            name=variant.name,
            width=size["width"],
            height=size["height"],
            format=variant.format,
            size=path.stat().st_size,
        )
        for variant, path, size in zip(params.variants, paths, answer["variants"], strict=True)
    ]
    for variant, path in zip(params.variants, paths, strict=True):
        context.add_artifact(
            path, f"{variant.name}.{find_writing(variant.format).extension}", f"image/{variant.format}"
        )
    return MakeImagesResult(variants=made)

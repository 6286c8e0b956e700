"""The child's side of `files.make_images`: decodes the picture once, and makes each variant from the result.

The picture is decoded into memory, upright and in sRGB, at no more than twice the size of the largest variant. Every
variant is then resampled once from there. Decoding again for each variant, as `vips thumbnail` would, costs one decoding
for each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from shared.contracts.files._image_formats import MOST_PIXELS, find_writing
from workers.handlers.files._colours import name_bands, scale_samples, to_srgb
from workers.handlers.files._errors import variant_too_large
from workers.handlers.files._pictures import (
    Header,
    open_pixels,
    read_header,
    reading_pixels,
    require_supported,
)

OVERSAMPLING = 2
"""How many times larger than the largest variant the decoded picture is; libvips' own `thumbnail` uses the same."""

WHITE = "#ffffff"


class Size(NamedTuple):
    """A size in pixels."""

    width: int
    height: int


class Plan(NamedTuple):
    """How a variant is made: resized to `size`, then cropped or padded to `box` around its centre."""

    size: Size
    box: Size


def run_in_child(request: dict[str, Any], report_progress: Callable[[int, str | None], None]) -> dict[str, Any]:
    """Write the `variants` of the picture at `path`, of type `media_type`, each to its own `path`.

    Returns `{"variants": [{"width", "height"}]}` in their order, and reports progress after each.
    """
    header = read_header(request["path"], request["media_type"])
    require_supported(header)
    variants: list[dict[str, Any]] = request["variants"]
    plans = [plan_variant(variant, *header.upright_size) for variant in variants]
    for variant, plan in zip(variants, plans, strict=True):
        _refuse_too_large(variant, plan)
    made = []
    with reading_pixels():
        source = _decode(header, plans)
        for number, (variant, plan) in enumerate(zip(variants, plans, strict=True), start=1):
            picture = _render(source, plan, variant)
            _save(picture, variant)
            made.append({"width": picture.width, "height": picture.height})
            report_progress(100 * number // len(variants), f"{number} of {len(variants)}")
    return {"variants": made}


def plan_variant(variant: dict[str, Any], width: int, height: int) -> Plan:
    """Return how a variant is made of an upright picture of this size."""
    fit, enlarge = variant["fit"], variant["enlarge"]
    box_width, box_height = variant["width"], variant["height"]
    if fit == "fill":
        size = Size(box_width, box_height) if enlarge else Size(min(box_width, width), min(box_height, height))
        return Plan(size, size)
    scales = [box / side for box, side in ((box_width, width), (box_height, height)) if box is not None]
    if not scales:
        return Plan(Size(width, height), Size(width, height))
    scale = max(scales) if fit == "cover" else min(scales)
    if not enlarge:
        scale = min(scale, 1.0)
    size = Size(max(1, int(width * scale + 0.5)), max(1, int(height * scale + 0.5)))
    if fit == "cover":
        return Plan(size, Size(min(box_width, size.width), min(box_height, size.height)))
    return Plan(size, Size(box_width, box_height) if fit == "contain" else size)


def _refuse_too_large(variant: dict[str, Any], plan: Plan) -> None:
    # In the worst case both are whole in memory: the resized picture and the written one.
    for width, height in (plan.size, plan.box):
        if width * height > MOST_PIXELS:
            raise variant_too_large(variant["name"], width, height)
    if max(plan.box) > find_writing(variant["format"]).longest_edge:
        raise variant_too_large(variant["name"], *plan.box)


def _decode(header: Header, plans: list[Plan]) -> Any:
    """Return the picture in memory, upright and in sRGB, no larger than the variants need."""
    width, height = header.upright_size
    largest = max(side / of for plan in plans for side, of in zip(plan.size, (width, height), strict=True))
    spare = max(1, int(1 / (largest * OVERSAMPLING)))
    if header.media_type == "image/jpeg":
        # libjpeg decodes to a half, a quarter or an eighth at a fraction of the cost (scaled inverse transforms).
        on_load = next(factor for factor in (8, 4, 2, 1) if factor <= spare)
        image, spare = open_pixels(header, shrink=on_load), 1
    elif header.media_type == "image/tiff":
        image = scale_samples(lambda: open_pixels(header), header.tiff)
    else:
        image = name_bands(open_pixels(header))
    if spare > 1:
        image = _shrink(image, spare)
    if header.orientation > 1:
        image = image.copy_memory().autorot()
    return to_srgb(image, header.path, header.media_type).copy_memory()


def _shrink(image: Any, factor: int) -> Any:
    factors = (min(factor, image.width), min(factor, image.height))
    if not image.hasalpha():
        return image.shrink(*factors)
    # The colour of what is transparent must not bleed into what is not.
    return image.premultiply().shrink(*factors).unpremultiply().cast(image.format)


def _render(source: Any, plan: Plan, variant: dict[str, Any]) -> Any:
    """Return the variant as it is written: resized, cropped, and on its background."""
    image = source
    if (image.width, image.height) != plan.size:
        image = image.thumbnail_image(plan.size.width, height=plan.size.height, size="force", no_rotate=True)
    if plan.box.width < plan.size.width or plan.box.height < plan.size.height:
        left, top = (plan.size.width - plan.box.width) // 2, (plan.size.height - plan.box.height) // 2
        image = image.crop(left, top, *plan.box)
    background = variant["background"]
    if image.hasalpha() and (background or variant["format"] == "jpeg"):
        image = image.flatten(background=_colour(background or WHITE))
    if plan.box != (image.width, image.height):
        filling = [0, 0, 0, 0] if image.hasalpha() else _colour(background or WHITE)
        image = image.gravity("centre", *plan.box, extend="background", background=filling)
    return image


def _colour(code: str) -> list[int]:
    return [int(code[at : at + 2], 16) for at in (1, 3, 5)]


def _save(image: Any, variant: dict[str, Any]) -> None:
    path, format = variant["path"], variant["format"]
    quality = variant["quality"] or find_writing(format).quality
    match format:
        case "jpeg":
            image.jpegsave(path, Q=quality, optimize_coding=True, keep="none")
        case "png":
            image.pngsave(path, keep="none")
        case "webp":
            image.webpsave(path, Q=quality, keep="none")
        case "avif":
            # More effort than this takes several times as long and saves a few per cent of the size.
            image.heifsave(path, compression="av1", Q=quality, effort=2, keep="none")

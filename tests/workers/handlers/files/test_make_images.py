from __future__ import annotations

import gc
import io
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
import pyvips
from PIL import Image, ImageCms, ImageDraw
from pydantic import ValidationError

from shared.contracts.files.make_images import READABLE_TYPES, MakeImagesParams, MakeImagesResult
from shared.contracts.kind import list_referred_files
from shared.media_types import detect_media_type
from tests.workers.handlers.files.fixtures import Encode, LimitedChildren, ReadData
from workers.adapters.memory_context import MemoryContext
from workers.handlers.files._make_images import plan_variant
from workers.handlers.files.make_images import handle
from workers.outcomes import Cancelled, Failed

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 160, 0), (0, 0, 255), (255, 255, 255)


def variant(name: str = "small", **fields: object) -> dict[str, Any]:
    return {"name": name, "width": 100, "format": "png", **fields}


def make(context: MemoryContext, content: bytes, *variants: dict[str, Any]) -> MakeImagesResult:
    file_id = context.add_input(content)
    return handle(MakeImagesParams.model_validate({"file_id": file_id, "variants": list(variants)}), context)


def opened(context: MemoryContext, position: int = 0) -> Image.Image:
    image = Image.open(io.BytesIO(context.artifacts[position].content))
    image.load()
    return image


def failure_of(context: MemoryContext, content: bytes, *variants: dict[str, Any]) -> Failed:
    with pytest.raises(Failed) as caught:
        make(context, content, *variants)
    return caught.value


def is_near(found: float | Sequence[int] | None, wanted: Sequence[int], by: int = 12) -> bool:
    """Return whether each band of a pixel, as Pillow returns it, differs by no more than this."""
    assert isinstance(found, Sequence)
    return all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True))


def corners() -> Image.Image:
    """Red above left, green above right, blue below left, white below right; wider than high."""
    image = Image.new("RGB", (120, 80), RED)
    draw = ImageDraw.Draw(image)
    draw.rectangle((60, 0, 119, 39), fill=GREEN)
    draw.rectangle((0, 40, 59, 79), fill=BLUE)
    draw.rectangle((60, 40, 119, 79), fill=WHITE)
    return image


def corner_colours(image: Image.Image) -> list[Any]:
    picture = image.convert("RGB")
    right, below = picture.width - 4, picture.height - 4
    return [picture.getpixel(place) for place in ((3, 3), (right, 3), (3, below), (right, below))]


def test_a_photo_is_written_in_every_format_and_not_enlarged(context: MemoryContext, read_data: ReadData) -> None:
    result = make(
        context,
        read_data("rocket.jpg"),
        variant("thumb", width=160, height=160, format="jpeg"),
        variant("wide", width=5000, format="webp"),
        variant("modern", width=320, format="avif"),
        variant("sharp", width=None, height=100, format="png"),
    )
    assert [(v.name, v.width, v.height, v.format) for v in result.variants] == [
        ("thumb", 160, 107, "jpeg"),
        ("wide", 640, 427, "webp"),
        ("modern", 320, 214, "avif"),
        ("sharp", 150, 100, "png"),
    ]
    kept = [(a.name, a.media_type) for a in context.artifacts]
    assert kept == [
        ("thumb.jpg", "image/jpeg"),
        ("wide.webp", "image/webp"),
        ("modern.avif", "image/avif"),
        ("sharp.png", "image/png"),
    ]
    for made, artifact in zip(result.variants, context.artifacts, strict=True):
        assert made.size == len(artifact.content)
        assert detect_media_type(artifact.content) == artifact.media_type
        assert Image.open(io.BytesIO(artifact.content)).size == (made.width, made.height)
    assert context.progress_calls == [(25, "1 of 4"), (50, "2 of 4"), (75, "3 of 4"), (100, "4 of 4")]


def test_a_resized_picture_looks_like_the_one_of_pillow(context: MemoryContext, read_data: ReadData) -> None:
    make(context, read_data("coffee.png"), variant(width=150))
    with Image.open(io.BytesIO(read_data("coffee.png"))) as original:
        wanted = original.convert("RGB").resize((150, 100), Image.Resampling.LANCZOS)
    ours = opened(context).convert("RGB")
    differences = [abs(a - b) for a, b in zip(ours.tobytes(), wanted.tobytes(), strict=True)]
    assert sum(differences) / len(differences) < 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_is_turned_upright(
    context: MemoryContext, encode: Encode, orientation: int, format: str
) -> None:
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = corners()
    for move in undo.get(orientation, []):
        stored = stored.transpose(move)
    exif = Image.Exif()
    exif[0x0112] = orientation
    made = make(context, encode(stored, format, exif=exif), variant(width=60)).variants[0]
    assert (made.width, made.height) == (60, 40)
    for found, wanted in zip(corner_colours(opened(context)), (RED, GREEN, BLUE, WHITE), strict=True):
        assert is_near(found, wanted, by=30), (found, wanted)


def test_variants_have_no_metadata(context: MemoryContext, encode: Encode) -> None:
    exif = Image.Exif()
    exif[0x010F] = "A maker of cameras"
    exif[0x8825] = {1: "N", 2: (47.0, 30.0, 0.0), 3: "E", 4: (9.0, 45.0, 0.0)}
    content = encode(
        corners(), "JPEG", exif=exif, comment=b"a remark", xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>place</x:xmpmeta>"
    )
    assert b"A maker of cameras" in content
    make(context, content, *(variant(f, format=f) for f in ("jpeg", "png", "webp", "avif")))
    for position, artifact in enumerate(context.artifacts):
        assert not any(word in artifact.content for word in (b"maker", b"remark", b"xmpmeta", b"Exif\0\0"))
        assert dict(opened(context, position).getexif()) == {}
        assert "icc_profile" not in opened(context, position).info


def test_a_profile_is_converted_to_srgb(context: MemoryContext, encode: Encode) -> None:
    # In Adobe RGB this green is far outside sRGB's middle: read as sRGB, its red would be 100.
    profile = _swapped_profile()
    make(context, encode(Image.new("RGB", (50, 50), (200, 100, 50)), "PNG", icc_profile=profile), variant())
    assert not is_near(opened(context).convert("RGB").getpixel((25, 25)), (200, 100, 50), by=8)


def _swapped_profile() -> bytes:
    """The profile of the rocket photo, Adobe RGB (1998), whose primaries differ from sRGB's."""
    with Image.open(Path(__file__).parents[3] / "data" / "rocket.jpg") as image:
        profile = image.info["icc_profile"]
    assert isinstance(profile, bytes)
    return profile


def test_a_profile_of_srgb_changes_nothing(context: MemoryContext, encode: Encode) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    make(context, encode(Image.new("RGB", (50, 50), (200, 100, 50)), "PNG", icc_profile=profile), variant())
    assert is_near(opened(context).convert("RGB").getpixel((25, 25)), (200, 100, 50), by=2)


def test_a_damaged_profile_is_ignored(context: MemoryContext, encode: Encode) -> None:
    make(context, encode(Image.new("RGB", (50, 50), (200, 100, 50)), "JPEG", icc_profile=b"nonsense" * 40), variant())
    assert is_near(opened(context).convert("RGB").getpixel((25, 25)), (200, 100, 50), by=4)


def test_transparent_areas_are_white_or_the_background_in_jpeg(context: MemoryContext, encode: Encode) -> None:
    image = Image.new("RGBA", (100, 100), (0, 0, 255, 0))
    image.paste((255, 0, 0, 255), (0, 0, 50, 100))
    make(
        context,
        encode(image, "PNG"),
        variant("plain", format="jpeg", quality=95),
        variant("green", format="jpeg", quality=95, background="#00a000"),
        variant("kept", format="webp"),
        variant("filled", format="png", background="#00A000"),
    )
    assert is_near(opened(context, 0).getpixel((75, 50)), WHITE)
    assert is_near(opened(context, 0).getpixel((25, 50)), RED)
    assert is_near(opened(context, 1).getpixel((75, 50)), GREEN)
    assert opened(context, 2).convert("RGBA").getchannel("A").getpixel((75, 50)) == 0
    assert is_near(opened(context, 3).getpixel((75, 50)), GREEN)


def test_the_colour_of_transparent_pixels_does_not_bleed(context: MemoryContext, encode: Encode) -> None:
    image = Image.new("RGBA", (1000, 1000), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 505, 1000))
    make(context, encode(image, "PNG"), variant(width=10))
    red, green, _, alpha = (channel.getpixel((5, 5)) for channel in opened(context).split())
    assert alpha in range(1, 255)
    assert (red, green) == (255, 0)


def test_contain_pads_with_transparency_white_or_the_background(context: MemoryContext, encode: Encode) -> None:
    box = {"width": 90, "height": 90, "fit": "contain"}
    make(
        context,
        encode(Image.new("RGB", (90, 30), RED), "PNG"),
        variant("a", **box),
        variant("b", **box, background="#0000ff"),
    )
    assert opened(context, 0).size == (90, 90)
    assert is_near(opened(context, 0).getpixel((45, 5)), WHITE)
    assert is_near(opened(context, 0).getpixel((45, 45)), RED)
    assert is_near(opened(context, 1).getpixel((45, 85)), BLUE)
    make(context, encode(Image.new("RGBA", (90, 30), (*RED, 255)), "PNG"), variant("c", **box))
    assert opened(context, 2).getpixel((45, 5)) == (0, 0, 0, 0)


def test_cover_fills_the_box_and_crops_evenly(context: MemoryContext, encode: Encode) -> None:
    image = Image.new("RGB", (300, 100), GREEN)
    image.paste(RED, (0, 0, 90, 100))
    image.paste(BLUE, (210, 0, 300, 100))
    made = make(context, encode(image, "PNG"), variant(width=50, height=50, fit="cover")).variants[0]
    assert (made.width, made.height) == (50, 50)
    assert {opened(context).getpixel((x, 25)) for x in (0, 25, 49)} == {GREEN}


def test_fill_stretches(context: MemoryContext, encode: Encode) -> None:
    make(context, encode(corners(), "PNG"), variant(width=40, height=60, fit="fill"))
    assert opened(context).size == (40, 60)
    for found, wanted in zip(corner_colours(opened(context)), (RED, GREEN, BLUE, WHITE), strict=True):
        assert is_near(found, wanted, by=30)


def test_a_small_picture_is_enlarged_only_on_request(context: MemoryContext, encode: Encode) -> None:
    result = make(
        context, encode(corners(), "PNG"), variant("not", width=480), variant("asked", width=480, enlarge=True)
    )
    assert [(v.width, v.height) for v in result.variants] == [(120, 80), (480, 320)]


@pytest.mark.parametrize(
    ("fields", "size", "box"),
    [
        ({"width": None, "height": None}, (6000, 4000), (6000, 4000)),
        ({"width": None, "height": None, "enlarge": True}, (6000, 4000), (6000, 4000)),
        ({"width": 800, "height": None}, (800, 533), (800, 533)),
        ({"width": 800, "height": 200}, (300, 200), (300, 200)),
        ({"width": 9000, "height": None}, (6000, 4000), (6000, 4000)),
        ({"width": 9000, "height": None, "enlarge": True}, (9000, 6000), (9000, 6000)),
        ({"width": 100, "height": 100, "fit": "cover"}, (150, 100), (100, 100)),
        ({"width": 9000, "height": 1000, "fit": "cover"}, (6000, 4000), (6000, 1000)),
        ({"width": 9000, "height": 1000, "fit": "cover", "enlarge": True}, (9000, 6000), (9000, 1000)),
        ({"width": 100, "height": 100, "fit": "contain"}, (100, 67), (100, 100)),
        ({"width": 9000, "height": 9000, "fit": "contain"}, (6000, 4000), (9000, 9000)),
        ({"width": 100, "height": 9000, "fit": "fill"}, (100, 4000), (100, 4000)),
    ],
)
def test_sizes_are_exact(fields: dict[str, Any], size: tuple[int, int], box: tuple[int, int]) -> None:
    assert plan_variant({"fit": "inside", "enlarge": False, **fields}, 6000, 4000) == (size, box)


def test_without_a_box_a_picture_is_only_converted(context: MemoryContext, encode: Encode) -> None:
    result = make(
        context,
        encode(corners(), "PNG"),
        {"name": "a", "format": "webp"},
        {"name": "b", "format": "jpeg", "quality": 95},
    )
    assert [(v.width, v.height, v.format) for v in result.variants] == [(120, 80, "webp"), (120, 80, "jpeg")]


def test_a_line_one_pixel_high_stays_one(context: MemoryContext, encode: Encode) -> None:
    made = make(context, encode(Image.new("RGB", (3000, 1), RED), "PNG"), variant(width=10)).variants[0]
    assert (made.width, made.height) == (10, 1)


@pytest.mark.parametrize(
    ("mode", "format", "colour", "wanted"),
    [
        ("CMYK", "JPEG", (0, 255, 255, 0), (230, 40, 40)),
        ("CMYK", "TIFF", (0, 255, 255, 0), (230, 40, 40)),
        ("L", "JPEG", 128, (128, 128, 128)),
        ("L", "PNG", 128, (128, 128, 128)),
        ("LA", "PNG", (128, 255), (128, 128, 128)),
        ("1", "PNG", 1, (255, 255, 255)),
        ("P", "PNG", 0, (0, 0, 0)),
        ("P", "GIF", 0, (0, 0, 0)),
        ("I;16", "PNG", 32896, (128, 128, 128)),
        ("I;16", "TIFF", 32896, (128, 128, 128)),
        ("RGB", "BMP", (200, 100, 50), (200, 100, 50)),
        ("RGB", "TIFF", (200, 100, 50), (200, 100, 50)),
        ("RGB", "WEBP", (200, 100, 50), (200, 100, 50)),
        ("RGB", "AVIF", (200, 100, 50), (200, 100, 50)),
        ("RGB", "GIF", (200, 100, 50), (200, 100, 50)),
    ],
)
def test_every_kind_of_pixels_becomes_srgb(
    context: MemoryContext,
    encode: Encode,
    mode: str,
    format: str,
    colour: float | tuple[int, ...],
    wanted: tuple[int, int, int],
) -> None:
    make(context, encode(Image.new(mode, (64, 48), colour), format), variant(width=32))
    assert opened(context).size == (32, 24)
    assert is_near(opened(context).convert("RGB").getpixel((16, 12)), wanted, by=25)


def test_sixteen_bits_of_colour_become_eight(context: MemoryContext) -> None:
    pixels = pyvips.Image.black(40, 40).bandjoin([0, 0]).linear([1, 1, 1], [51400, 25700, 12850])
    content = pixels.cast("ushort").copy(interpretation="rgb16").write_to_buffer(".png")
    make(context, content, variant())
    assert is_near(opened(context).convert("RGB").getpixel((20, 20)), (200, 100, 50), by=2)


def test_the_accepted_types_are_those_that_can_be_decoded() -> None:
    assert {f"image/{t}" for t in ("jpeg", "png", "webp", "avif", "gif", "tiff", "bmp")} == set(READABLE_TYPES)


def test_the_first_frame_of_an_animation_is_used(context: MemoryContext, encode: Encode) -> None:
    frames = [Image.new("RGB", (60, 40), colour) for colour in (RED, GREEN, BLUE)]
    for format in ("GIF", "WEBP"):
        make(context, encode(frames[0], format, save_all=True, append_images=frames[1:]), variant())
        assert opened(context, -1).size == (60, 40)
        assert is_near(opened(context, -1).convert("RGB").getpixel((30, 20)), RED, by=20)


def test_a_bomb_is_refused_before_it_is_decoded(context: MemoryContext, png_bomb: bytes) -> None:
    assert len(png_bomb) < 20_000
    started, before = time.monotonic(), psutil.Process().memory_info().rss
    failed = failure_of(context, png_bomb, variant())
    gc.collect()
    assert failed.type == "/problems/image-too-large"
    assert failed.data == {"width": 60_000, "height": 60_000, "most_pixels": 200_000_000}
    assert time.monotonic() - started < 10
    assert psutil.Process().memory_info().rss - before < 20 << 20


def test_an_animation_bomb_is_refused_too(context: MemoryContext, encode: Encode) -> None:
    small, gigantic = b"\x08\0\x08\0", b"\xff\xff\xff\xff"
    # The size stands in the header and again before the frame.
    content = encode(Image.new("P", (8, 8)), "GIF").replace(small, gigantic)
    assert failure_of(context, content, variant()).type == "/problems/image-too-large"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_picture_that_is_cut_short_is_unreadable(
    context: MemoryContext, encode: Encode, read_data: ReadData, format: str, kept: float
) -> None:
    with Image.open(io.BytesIO(read_data("coffee.png"))) as image:
        whole = encode(image.convert("RGB"), format)
    failed = failure_of(context, whole[: max(32, int(len(whole) * kept))], variant())
    assert failed.type == "/problems/unreadable-image"
    assert str(context.scratch.parent) not in str(failed.detail)
    assert context.artifacts == []


def test_a_header_with_a_wrong_length_is_unreadable(context: MemoryContext) -> None:
    directory_without_entries = b"II*\0\x08\0\0\0\0\0" + bytes(100)
    assert failure_of(context, directory_without_entries, variant()).type == "/problems/unreadable-image"


def test_other_files_are_unreadable(context: MemoryContext, read_data: ReadData) -> None:
    for content in (b"", b"text", read_data("latex-news.pdf"), b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + bytes(100)):
        assert failure_of(context, content, variant()).type == "/problems/unreadable-image"


def test_random_damage_is_a_named_error_at_worst(context: MemoryContext, encode: Encode) -> None:
    chance = random.Random(7)
    for format in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "AVIF"):
        content = bytearray(encode(corners(), format))
        for _ in range(20):
            content[chance.randrange(12, len(content))] = chance.randrange(256)
        try:
            make(context, bytes(content), variant())
        except Failed as failed:
            named = {"unreadable-image", "unsupported-image", "image-too-large", "out-of-memory"}
            assert failed.type.removeprefix("/problems/") in named


def test_a_variant_that_its_format_cannot_hold_is_refused(context: MemoryContext, encode: Encode) -> None:
    tall = encode(Image.new("1", (20, 20_000)), "PNG")
    failed = failure_of(context, tall, variant("tall", width=20, format="webp"))
    assert failed.type == "/problems/image-too-large"
    assert failed.data == {"variant": "tall", "width": 20, "height": 20_000}
    thin = encode(Image.new("RGB", (1, 1000)), "PNG")
    huge = variant("huge", width=1000, height=1000, fit="cover", enlarge=True)
    assert failure_of(context, thin, huge).type == "/problems/image-too-large"


def test_too_little_memory_is_a_named_error(context: MemoryContext, encode: Encode) -> None:
    content = encode(Image.new("RGB", (14_000, 14_000)), "PNG", compress_level=1)
    context.memory_bytes = 512 << 20
    failed = failure_of(context, content, variant(width=14_000, format="webp"))
    assert failed.type == "/problems/out-of-memory"
    context.memory_bytes = 2 << 30
    assert make(context, encode(corners(), "PNG"), variant()).variants[0].width == 100


def test_a_large_photo_needs_little_memory(context: MemoryContext, encode: Encode) -> None:
    content = encode(Image.new("RGB", (12_000, 9_000), GREEN), "JPEG")
    context.memory_bytes = 768 << 20
    result = make(context, content, variant(width=1600, format="jpeg"), variant("b", width=400, format="webp"))
    assert [(v.width, v.height) for v in result.variants] == [(1600, 1200), (400, 300)]


def test_cancelling_ends_the_child_and_keeps_nothing(
    context: MemoryContext, read_data: ReadData, limited_children: LimitedChildren
) -> None:
    context.stop_after_progress = Cancelled()

    with pytest.raises(Cancelled):
        make(context, read_data("rocket.jpg"), *(variant(f"v{n}", width=600, format="avif") for n in range(20)))
    assert len(context.progress_calls) == 1
    assert context.artifacts == []
    assert limited_children() == []


@pytest.mark.parametrize(
    ("variants", "place"),
    [
        ([], ("variants",)),
        ([variant(f"v{n}") for n in range(21)], ("variants",)),
        ([variant("a"), variant("b"), variant("A")], ("variants", 2, "name")),
        ([variant("../a")], ("variants", 0, "name")),
        ([variant(".hidden")], ("variants", 0, "name")),
        ([variant("")], ("variants", 0, "name")),
        ([variant("x" * 65)], ("variants", 0, "name")),
        ([variant(width=None, fit="contain")], ("variants", 0, "width")),
        ([variant(width=0)], ("variants", 0, "width")),
        ([variant(height=16_385)], ("variants", 0, "height")),
        ([variant(width=16_384, height=16_384)], ("variants", 0, "width")),
        ([variant(width=16_384, format="webp")], ("variants", 0, "format")),
        ([variant(fit="cover")], ("variants", 0, "height")),
        ([variant(fit="stretch")], ("variants", 0, "fit")),
        ([variant(format="gif")], ("variants", 0, "format")),
        ([variant(quality=0)], ("variants", 0, "quality")),
        ([variant(quality=101)], ("variants", 0, "quality")),
        ([variant(background="red")], ("variants", 0, "background")),
        ([variant(colour="red")], ("variants", 0, "colour")),
    ],
)
def test_the_error_of_invalid_params_names_their_place(
    variants: list[dict[str, Any]], place: tuple[int | str, ...]
) -> None:
    with pytest.raises(ValidationError) as caught:
        MakeImagesParams.model_validate({"file_id": str(uuid4()), "variants": variants})
    assert [error["loc"] for error in caught.value.errors()] == [place]


def test_the_contract_accepts_decoded_types_only() -> None:
    params = MakeImagesParams.model_validate({"file_id": str(uuid4()), "variants": [variant()]})
    (referred,) = list_referred_files(params)
    assert referred.reference.can_read("image/avif")
    assert not any(referred.reference.can_read(t) for t in ("image/heic", "image/svg+xml", "application/pdf"))

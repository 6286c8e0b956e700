"""What kinds of pixels become in `files.make_images`, and what `files.inspect` returns for them."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
import pyvips
from PIL import Image, ImageCms

from shared.contracts.files._image_formats import IMAGE_FORMATS
from shared.media_types import detect_media_type
from tests.workers.handlers.files.image_files import gif, insert_png_chunks, png_chunk, tiff
from workers.handlers.files import _inspect_image, _make_images
from workers.outcomes import Failed

UNSIGNED, SIGNED, FLOAT, COMPLEX_INTEGER, COMPLEX = 1, 2, 3, 5, 6
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK, CIE_LAB, ICC_LAB, ITU_LAB, SENSOR = 0, 1, 2, 5, 8, 9, 10, 32803
DISPLAY_P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
Colour = tuple[int, ...]


class Convert(Protocol):
    def __call__(self, content: bytes) -> Image.Image: ...


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Converts a picture to a PNG of the same size, in this process."""
    numbers = count()

    def run(content: bytes) -> Image.Image:
        # libvips keeps what it has read from a path.
        source, target = tmp_path / f"source-{next(numbers)}", tmp_path / "converted.png"
        source.write_bytes(content)
        variant = {"name": "a", "width": None, "height": None, "fit": "inside", "format": "png", "quality": None}
        request = {
            "path": str(source),
            "media_type": detect_media_type(content),
            "variants": [{**variant, "background": None, "enlarge": False, "path": str(target)}],
        }
        _make_images.run_in_child(request, lambda percent, message: None)
        with Image.open(target) as image:
            image.load()
            return image

    return run


@pytest.fixture
def inspect(tmp_path: Path) -> Callable[[bytes], dict[str, Any]]:
    """Returns the facts of a picture, found in this process."""
    numbers = count()

    def run(content: bytes) -> dict[str, Any]:
        source = tmp_path / f"inspected-{next(numbers)}"
        source.write_bytes(content)
        request = {"path": str(source), "media_type": detect_media_type(content), "include_gps": False}
        return _inspect_image.run_in_child(request, lambda percent, message: None)

    return run


def pack(kind: str, values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}{kind}", *values)


def ramp(least: float, greatest: float) -> list[float]:
    """Sixteen values from the least to the greatest, for a picture of 4 by 4 pixels."""
    return [least + (greatest - least) * step / 15 for step in range(16)]


def integers(values: Sequence[float]) -> list[int]:
    return [int(value) for value in values]


def greys(image: Image.Image) -> list[int]:
    return list(image.convert("L").tobytes())


def colour_of(image: Image.Image) -> Colour:
    found = image.getpixel((0, 0))
    assert isinstance(found, tuple)
    return found


def assert_near(found: Sequence[int], wanted: Sequence[int], by: int) -> None:
    assert all(abs(a - b) <= by for a, b in zip(found, wanted, strict=True)), (found, wanted)


RAMP = [17 * step for step in range(16)]


@pytest.mark.parametrize(
    ("kind", "bits", "sample_format", "values"),
    [
        ("f", 32, FLOAT, ramp(0, 1)),
        ("e", 16, FLOAT, ramp(0, 1)),
        ("f", 32, FLOAT, ramp(0, 255)),
        ("f", 32, FLOAT, ramp(-500, 4000)),
        ("f", 32, FLOAT, ramp(0, 0.001)),
        ("H", 16, UNSIGNED, integers(ramp(0, 65_535))),
        ("H", 16, UNSIGNED, integers(ramp(0, 1500))),
        ("h", 16, SIGNED, integers(ramp(-1000, 3000))),
        ("I", 32, UNSIGNED, integers(ramp(0, 4_294_967_295))),
        ("I", 32, UNSIGNED, integers(ramp(0, 100_000))),
        ("i", 32, SIGNED, integers(ramp(-2_147_483_648, 2_147_483_647))),
        ("b", 8, SIGNED, integers(ramp(-128, 127))),
    ],
)
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_greys_of_every_kind_of_number_are_scaled(
    convert: Convert, kind: str, bits: int, sample_format: int, values: list[float], photometric: int
) -> None:
    content = tiff(4, 4, [pack(kind, values)], bits=bits, sample_format=sample_format, photometric=photometric)

    wanted = RAMP if photometric == BLACK_IS_ZERO else RAMP[::-1]
    assert_near(greys(convert(content)), wanted, by=2)


@pytest.mark.parametrize(
    ("kind", "bits", "sample_format", "white"),
    [
        ("f", 32, FLOAT, 1.0),
        ("e", 16, FLOAT, 1.0),
        ("B", 8, UNSIGNED, 255),
        ("H", 16, UNSIGNED, 65_535),
        ("I", 32, UNSIGNED, 4_294_967_295),
    ],
)
@pytest.mark.parametrize("is_planar", [False, True])
@pytest.mark.parametrize("has_alpha", [False, True])
def test_colours_of_every_kind_of_number_are_scaled(
    convert: Convert, kind: str, bits: int, sample_format: int, white: float, is_planar: bool, has_alpha: bool
) -> None:
    colour = [1.0, 0.5, 0.25, 0.75] if has_alpha else [1.0, 0.5, 0.25]
    pixels = [white * value if kind in "fe" else int(white * value) for value in colour * 16]
    strips = [pack(kind, pixels[n :: len(colour)]) for n in range(len(colour))] if is_planar else [pack(kind, pixels)]
    content = tiff(
        4,
        4,
        strips,
        bits=bits,
        samples=len(colour),
        sample_format=sample_format,
        photometric=RGB,
        planar=2 if is_planar else 1,
        extra_samples=[2] if has_alpha else [],
    )

    assert_near(colour_of(convert(content)), [255, 127, 64, 191][: len(colour)], by=1)


def test_numbers_that_are_none_do_not_hide_the_others(
    convert: Convert, inspect: Callable[[bytes], dict[str, Any]]
) -> None:
    values = [float("nan"), float("inf"), float("-inf"), -3.4028234e38, *ramp(0, 1)[4:]]
    content = tiff(4, 4, [pack("f", values)], bits=32, sample_format=FLOAT)

    assert_near(greys(convert(content)), [0, 0, 0, 0, *RAMP[4:]], by=1)
    assert inspect(content)["width"] == 4


@pytest.mark.parametrize(("value", "wanted"), [(0.0, 0), (0.5, 128), (7.0, 255), (-3.0, 0), (float("nan"), 0)])
def test_one_value_everywhere_is_no_error(convert: Convert, value: float, wanted: int) -> None:
    content = tiff(4, 4, [pack("f", [value] * 16)], bits=32, sample_format=FLOAT)

    assert_near(greys(convert(content)), [wanted] * 16, by=1)


@pytest.mark.parametrize(
    ("photometric", "kind", "bits", "sample_format", "stored"),
    [
        (CIE_LAB, "b", 8, UNSIGNED, [-120, 80, 67]),
        (CIE_LAB, "h", 16, UNSIGNED, [-30_656, 20_505, 17_203]),
        (CIE_LAB, "f", 32, FLOAT, [53.24, 80.09, 67.2]),
        (ICC_LAB, "B", 8, UNSIGNED, [136, 208, 195]),
        (ICC_LAB, "H", 16, UNSIGNED, [34_755, 53_273, 49_971]),
    ],
)
def test_lab_becomes_the_same_red_in_every_encoding(
    convert: Convert, photometric: int, kind: str, bits: int, sample_format: int, stored: list[float]
) -> None:
    content = tiff(
        4, 4, [pack(kind, stored * 16)], bits=bits, samples=3, sample_format=sample_format, photometric=photometric
    )

    assert_near(colour_of(convert(content)), (255, 0, 0), by=3)


@pytest.mark.parametrize(("kind", "bits", "sample_format", "full"), [("H", 16, UNSIGNED, 65_535), ("f", 32, FLOAT, 1)])
def test_cmyk_of_every_kind_of_number_is_converted(
    convert: Convert, kind: str, bits: int, sample_format: int, full: float
) -> None:
    content = tiff(
        4, 4, [pack(kind, [0, full, full, 0] * 16)], bits=bits, samples=4, sample_format=sample_format, photometric=CMYK
    )

    assert_near(colour_of(convert(content)), (230, 35, 40), by=10)


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (tiff(4, 4, [bytes(128)], bits=64, sample_format=FLOAT), "samples that are floating-point numbers of 64 bits"),
        (tiff(4, 4, [bytes(128)], bits=64), "samples that are unsigned integers of 64 bits"),
        (tiff(4, 4, [bytes(24)], bits=12), "samples that are unsigned integers of 12 bits"),
        (tiff(4, 4, [bytes(128)], bits=64, sample_format=COMPLEX), "samples that are complex numbers"),
        (tiff(4, 4, [bytes(64)], bits=32, sample_format=COMPLEX_INTEGER), "samples that are complex numbers"),
        (tiff(4, 4, [bytes(48)], bits=8, samples=3, photometric=ITU_LAB), "ITULab colours"),
        (tiff(4, 4, [bytes(16)], bits=8, photometric=CIE_LAB), "Lab lightness without colours"),
        (tiff(4, 4, [bytes(16)], bits=8, photometric=SENSOR), "raw values of a camera's sensor (CFA)"),
        (tiff(4, 4, [bytes(16)], bits=8, compression=50_000), "the compression Zstandard"),
        (tiff(4, 4, [bytes(16)], bits=8, compression=6), "the compression old-style JPEG"),
        (tiff(4, 4, [bytes(16)], bits=8, compression=60_000), "a compression with the number 60000"),
    ],
)
def test_pixels_that_cannot_be_converted_are_a_named_error(convert: Convert, content: bytes, pixels: str) -> None:
    with pytest.raises(Failed) as caught:
        convert(content)

    assert caught.value.type == "/problems/unsupported-image"
    assert caught.value.data == {"pixels": pixels}
    assert pixels in str(caught.value.detail)
    assert not caught.value.retryable


@pytest.mark.parametrize(("marker", "precision"), [(0xC1, 12), (0xC5, 8)])
def test_a_jpeg_of_12_bits_or_another_process_is_unsupported(convert: Convert, marker: int, precision: int) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    start_of_frame = content.index(b"\xff\xc0")
    content[start_of_frame + 1], content[start_of_frame + 4] = marker, precision

    with pytest.raises(Failed, match="/problems/unsupported-image"):
        convert(bytes(content))


def test_facts_are_returned_of_pixels_that_cannot_be_converted(inspect: Callable[[bytes], dict[str, Any]]) -> None:
    facts = inspect(tiff(4, 3, [bytes(12)], bits=8, photometric=SENSOR))

    assert (facts["width"], facts["height"], facts["has_alpha"]) == (4, 3, False)


def test_a_tiff_of_ycbcr_has_no_alpha(convert: Convert, inspect: Callable[[bytes], dict[str, Any]]) -> None:
    content = tiff(4, 4, [bytes([128, 128, 128] * 16)], bits=8, samples=3, photometric=6)

    assert inspect(content)["has_alpha"] is False
    assert convert(content).mode == "RGB"


def tiff_with_orientation(orientation: int) -> bytes:
    """Return a TIFF with a value that Pillow does not write; the pixels are the same each time."""
    pixels = random.Random(1).randbytes(64 * 48)
    exif = Image.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    Image.frombytes("L", (64, 48), pixels).save(stream, "TIFF", exif=exif, compression="tiff_lzw")
    entry = struct.pack("<HHI", 0x0112, 3, 1)
    content = stream.getvalue()
    assert content.count(entry) == 1
    return content.replace(entry + struct.pack("<I", 6), entry + struct.pack("<I", orientation))


@pytest.mark.parametrize("orientation", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_is_ignored(
    convert: Convert, inspect: Callable[[bytes], dict[str, Any]], orientation: int
) -> None:
    content = tiff_with_orientation(orientation)

    assert inspect(content)["orientation"] == 1
    assert convert(content).tobytes() == convert(tiff_with_orientation(1)).tobytes()


def test_damaged_pixels_are_found_beside_an_orientation_that_does_not_exist(
    inspect: Callable[[bytes], dict[str, Any]],
) -> None:
    content = tiff_with_orientation(0)
    middle = len(content) // 2

    with pytest.raises(Failed) as caught:
        inspect(content[:middle] + b"\xff" * 500 + content[middle + 500 :])

    assert caught.value.type == "/problems/unreadable-image"


def png(colour: float | Colour, *chunks: bytes, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (2, 2), colour).save(stream, "PNG", **options)
    return insert_png_chunks(stream.getvalue(), *chunks)


def gamma(value: float) -> bytes:
    return png_chunk(b"gAMA", struct.pack(">I", round(value * 100_000)))


def chromaticities(values: Sequence[float]) -> bytes:
    return png_chunk(b"cHRM", struct.pack(">8I", *(round(value * 100_000) for value in values)))


def code_points(*values: int) -> bytes:
    return png_chunk(b"cICP", bytes(values))


def srgb_of_light(light: float) -> int:
    """The sRGB sample for linear light (IEC 61966-2-1)."""
    value = 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055
    return round(255 * min(1.0, value))


@pytest.mark.parametrize("exponent", [1.0, 0.5, 0.55556])
@pytest.mark.parametrize(
    ("mode", "colour"), [("RGB", (128, 64, 200)), ("RGBA", (128, 64, 200, 77)), ("L", 128), ("LA", (128, 77))]
)
def test_the_gamma_of_a_png_is_applied(convert: Convert, exponent: float, mode: str, colour: int | Colour) -> None:
    stored = colour if isinstance(colour, tuple) else (colour,)
    opaque = stored[:3] if mode.startswith("RGB") else stored[:1] * 3
    wanted = [srgb_of_light((value / 255) ** (1 / exponent)) for value in opaque]

    found = colour_of(convert(png(colour, gamma(exponent), mode=mode)))

    assert_near(found[:3], wanted, by=1)
    assert found[3:] == ((77,) if mode.endswith("A") else ())


def test_the_gamma_of_a_png_with_16_bits_is_applied(convert: Convert) -> None:
    pixels = pyvips.Image.black(4, 4).bandjoin([0, 0]).linear([1, 1, 1], [32_896, 16_448, 51_400])
    content = pixels.cast("ushort").copy(interpretation="rgb16").write_to_buffer(".png")

    found = colour_of(convert(insert_png_chunks(content, gamma(1.0))))

    assert_near(found, [srgb_of_light(value / 65_535) for value in (32_896, 16_448, 51_400)], by=1)


@pytest.mark.parametrize(
    "chunks",
    [
        [chromaticities(DISPLAY_P3)],
        [code_points(12, 13, 0, 1)],
        [code_points(12, 13, 0, 1), chromaticities((0.31, 0.33, 0.6, 0.3, 0.2, 0.6, 0.2, 0.1))],
    ],
)
@pytest.mark.parametrize("colour", [(128, 64, 200), (200, 180, 90), (255, 255, 255), (20, 20, 20)])
def test_primaries_of_a_png_are_converted_as_by_a_profile(
    convert: Convert, chunks: list[bytes], colour: Colour
) -> None:
    by_profile = pyvips.Image.new_from_memory(bytes(colour), 1, 1, 3, "uchar").copy(interpretation="srgb")
    wanted = by_profile.icc_transform("srgb", input_profile="p3", intent="relative").getpoint(0, 0)

    assert_near(colour_of(convert(png(colour, *chunks))), [round(value) for value in wanted], by=2)


@pytest.mark.parametrize(
    ("colour", "points", "wanted"),
    [
        # 203 cd/m² are the white of a picture with more light than sRGB (ITU-R BT.2408).
        ((148, 148, 148), (9, 16, 0, 1), (255, 255, 255)),
        ((191, 191, 191), (9, 18, 0, 1), (255, 255, 255)),
        ((0, 0, 0), (9, 16, 0, 1), (0, 0, 0)),
        ((0, 0, 0), (9, 18, 0, 1), (0, 0, 0)),
        ((255, 255, 255), (9, 1, 0, 1), (255, 255, 255)),
        ((128, 128, 128), (1, 8, 0, 1), (188, 188, 188)),
        ((16, 235, 16), (1, 13, 0, 0), (0, 255, 0)),
        ((128, 64, 200), (1, 13, 0, 1), (128, 64, 200)),
    ],
)
def test_code_points_of_a_png_decide_its_colours(
    convert: Convert, colour: Colour, points: tuple[int, ...], wanted: Colour
) -> None:
    assert_near(colour_of(convert(png(colour, code_points(*points)))), wanted, by=2)


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [gamma(0.45455)],
        [png_chunk(b"sRGB", b"\0"), gamma(1.0)],
        [gamma(0)],
        [chromaticities([0] * 8)],
        [chromaticities((0.3127, 0.3290, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3))],
        [code_points(2, 2, 0, 1)],
        [code_points(9, 16, 9, 1)],
        [png_chunk(b"gAMA", b"\1"), png_chunk(b"cHRM", b""), png_chunk(b"cICP", b"\1")],
    ],
)
def test_colours_without_another_meaning_stay(convert: Convert, chunks: list[bytes]) -> None:
    assert colour_of(convert(png((128, 64, 200), *chunks))) == (128, 64, 200)


def test_a_profile_overrules_gamma_and_code_points_overrule_a_profile(convert: Convert) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    by_profile = convert(png((128, 64, 200), gamma(1.0), icc_profile=profile))
    by_code_points = convert(png((128, 64, 200), code_points(1, 8, 0, 1), icc_profile=profile))

    assert_near(colour_of(by_profile), (128, 64, 200), by=1)
    assert_near(colour_of(by_code_points), (188, 137, 229), by=1)


@pytest.mark.parametrize("is_transparent", [False, True])
def test_a_first_frame_smaller_than_its_canvas_stands_on_it(
    convert: Convert, inspect: Callable[[bytes], dict[str, Any]], is_transparent: bool
) -> None:
    content = gif((10, 8), (2, 3, 4, 2), transparent=is_transparent)

    facts, image = inspect(content), convert(content).convert("RGBA")

    assert (facts["width"], facts["height"], facts["has_alpha"]) == (10, 8, True)
    assert image.size == (10, 8)
    opaque = {(x, y) for x in range(10) for y in range(8) if image.getpixel((x, y)) == (255, 0, 0, 255)}
    assert opaque == {(x, y) for x in range(2, 6) for y in range(3, 5)}
    assert image.getpixel((0, 0)) == (0, 0, 0, 0)


def test_a_frame_that_covers_its_canvas_has_no_alpha(inspect: Callable[[bytes], dict[str, Any]]) -> None:
    assert inspect(gif((10, 8), (0, 0, 10, 8)))["has_alpha"] is False


def test_every_format_has_a_loader_that_libvips_has() -> None:
    loaders = {known.loader for known in IMAGE_FORMATS.values() if known.loader}

    assert all(pyvips.type_find("VipsOperation", loader) for loader in loaders)

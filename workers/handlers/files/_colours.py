"""Converts the pixels of a picture to eight bits of sRGB, whatever kind they are.

- An embedded ICC profile decides, then what the format says: `cICP`, `gAMA` and `cHRM` of a PNG.
- 16 and 32 bits of whole numbers, and floating-point numbers, are scaled from the range that their type has, which is
  0 to 1 for floating point. Where that would be black, or the type has no such range (signed numbers, floating point
  beyond 0 to 1), they are scaled from the least to the greatest value in the picture.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import pyvips

from workers.handlers.files._png import (
    HLG_PEAK_NITS,
    REFERENCE_WHITE_NITS,
    SRGB,
    Chromaticity,
    PngColours,
    Primaries,
    read_colours,
)
from workers.handlers.files._tiff import ICC_LAB, MIN_IS_WHITE, TiffTags

_WHITE = {"ushort": 65_535.0, "uint": 4_294_967_295.0, "float": 1.0}
"""The greatest value of the types that have a range of their own. All samples are scaled to `ushort`."""
_LARGEST_ALPHA = {**_WHITE, "uchar": 255.0, "char": 127.0, "short": 32_767.0, "int": 2_147_483_647.0}
_DARK = 1 / 16
"""A picture with no sample above this share of white would look black, so it is scaled by its own range."""
_LARGEST_FLOAT = 3.0e38
_INVERTED_BY_VIPS = frozenset({"uchar", "ushort", "uint"})


def name_bands(image: Any) -> Any:
    """Return the image with an interpretation of its bands, if the file has none, or has more bands than a colour needs."""
    if image.interpretation == "multiband" or image.bands > 5:
        colours = image if image.bands <= 4 else image[:3]
        return colours.copy(interpretation="b-w" if colours.bands <= 2 else "srgb")
    return image


def scale_samples(open_image: Callable[[], Any], tags: TiffTags | None) -> Any:
    """Return the pixels of a TIFF with samples of at most 16 bits, in a colour space that libvips knows.

    `open_image` opens the picture for one pass from top to bottom; two are needed to find the range of its values.
    """
    image = name_bands(open_image())
    if tags is not None and tags.photometric == ICC_LAB and image.bands >= 3:
        return _read_icc_lab(image)
    if image.format == "uchar" or image.interpretation in {"lab", "labs", "xyz"}:
        return image
    colours = _count_colours(image)
    is_white_zero = tags is not None and tags.photometric == MIN_IS_WHITE
    # libvips inverts some types where zero is white. What is stored decides the range.
    is_inverted = is_white_zero and image.format in _INVERTED_BY_VIPS
    low, high = _find_range(_take(image, colours, is_inverted))
    again = name_bands(open_image())
    scaled = ((_finite(_take(again, colours, is_inverted), low) - low) * (65_535.0 / (high - low))).cast("ushort")
    if is_white_zero:
        scaled = scaled.invert()
    if image.bands > colours:
        alpha = _finite(again[colours], 0.0) * (65_535.0 / _LARGEST_ALPHA[image.format])
        scaled = scaled.bandjoin(alpha.cast("ushort"))
    return scaled.copy(interpretation={1: "grey16", 3: "rgb16", 4: "cmyk"}[colours])


def _take(image: Any, bands: int, is_inverted: bool) -> Any:
    taken = image[:bands] if bands < image.bands else image
    return taken.invert() if is_inverted else taken


def _count_colours(image: Any) -> int:
    if image.interpretation == "cmyk":
        return 4
    return 1 if image.bands <= 2 else 3


def _find_range(image: Any) -> tuple[float, float]:
    """Return the values that are black and white."""
    if image.format == "float":
        low = _finite(image, _LARGEST_FLOAT).bandjoin(_finite(image, -_LARGEST_FLOAT)).stats()
        least = min(low.getpoint(0, row)[0] for row in range(1, image.bands + 1))
        greatest = max(low.getpoint(1, row)[0] for row in range(image.bands + 1, 2 * image.bands + 1))
    else:
        stats = image.stats()
        least, greatest = stats.getpoint(0, 0)[0], stats.getpoint(1, 0)[0]
    white = _WHITE.get(image.format)
    if white is not None and least >= 0 and (greatest == 0 or white * _DARK <= greatest <= white):
        return 0.0, white
    if least < greatest:
        return least, greatest
    # One value everywhere, or none that is a number.
    return (0.0, greatest) if 0 < greatest < _LARGEST_FLOAT else (min(least, 0.0), 1.0)


def _finite(image: Any, otherwise: float) -> Any:
    """Return the image with a number in place of each infinity and NaN."""
    if image.format != "float":
        return image
    return (image.abs() <= _LARGEST_FLOAT).ifthenelse(image, otherwise)


def _read_icc_lab(image: Any) -> Any:
    """Return CIELab with the signs of the ICC's encoding (ICC.1:2001-04, 6.3.4) taken from a and b."""
    lightest, unit = (255.0, 1.0) if image.format == "uchar" else (65_280.0, 256.0)
    return image[:3].linear([100 / lightest, 1 / unit, 1 / unit], [0, -128, -128]).copy(interpretation="lab")


def to_srgb(image: Any, path: str, media_type: str) -> Any:
    """Return the image in eight bits of sRGB, converted by its profile or by the colour space that its format declares."""
    if media_type == "image/png":
        colours, overrules = read_colours(path)
        if overrules:
            image = _without_profile(image)
        if colours is not None and image.interpretation in {"srgb", "rgb16", "b-w", "grey16"}:
            return _decode_png_colours(_without_profile(image), colours)
    if image.get_typeof("icc-profile-data"):
        try:
            return image.icc_transform("srgb", embedded=True, intent="relative", black_point_compensation=True, depth=8)
        except pyvips.Error:
            # A profile that is damaged, or that is for another kind of pixels, is ignored.
            image = _without_profile(image)
    if image.interpretation == "cmyk":
        return image.icc_transform("srgb", input_profile="cmyk", intent="relative", depth=8)
    return image.colourspace("srgb").cast("uchar")


def _without_profile(image: Any) -> Any:
    if not image.get_typeof("icc-profile-data"):
        return image
    image = image.copy()
    image.remove("icc-profile-data")
    return image


def _decode_png_colours(image: Any, png: PngColours) -> Any:
    most = 255 if image.format == "uchar" else 65_535
    table = array("f", (png.decode(value / most) for value in range(most + 1)))
    lookup = pyvips.Image.new_from_memory(table.tobytes(), most + 1, 1, 1, "float")
    has_alpha = image.hasalpha()
    colours = image[: image.bands - 1] if has_alpha else image
    light = colours.maplut(lookup)
    if light.bands == 1:
        light = light.bandjoin([light, light])
    if png.is_scene_light:
        luminance = light.recomb(pyvips.Image.new_from_array([_to_xyz(png.primaries)[_LUMINANCE]]))
        light = light * (luminance**0.2) * (HLG_PEAK_NITS / REFERENCE_WHITE_NITS)
    if png.primaries != SRGB and colours.bands == 3:
        light = light.recomb(pyvips.Image.new_from_array(_to_linear_srgb(png.primaries)))
    converted = light.copy(interpretation="scrgb").colourspace("srgb").cast("uchar")
    if not has_alpha:
        return converted
    alpha = image[image.bands - 1]
    return converted.bandjoin(alpha if most == 255 else (alpha / 257).rint().cast("uchar"))


Matrix = list[list[float]]
_LUMINANCE = 1
"""The row of Y in a matrix to CIE XYZ."""
_BRADFORD: Matrix = [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]


def _to_linear_srgb(primaries: Primaries) -> Matrix:
    """Return the matrix from linear light of these primaries to that of sRGB, with an adaptation of white (Bradford)."""
    source, target = (_multiply_vector(_BRADFORD, _xyz_of(each.white)) for each in (primaries, SRGB))
    scaling = [[target[i] / source[i] if i == j else 0.0 for j in range(3)] for i in range(3)]
    adapt = _multiply(_invert(_BRADFORD), _multiply(scaling, _BRADFORD))
    return _multiply(_invert(_to_xyz(SRGB)), _multiply(adapt, _to_xyz(primaries)))


def _to_xyz(primaries: Primaries) -> Matrix:
    """Return the matrix from linear light of these primaries to CIE XYZ, in which white has the luminance 1."""
    columns = [_xyz_of(colour) for colour in (primaries.red, primaries.green, primaries.blue)]
    matrix = [[column[row] for column in columns] for row in range(3)]
    amounts = _multiply_vector(_invert(matrix), _xyz_of(primaries.white))
    return [[value * amount for value, amount in zip(row, amounts, strict=True)] for row in matrix]


def _xyz_of(colour: Chromaticity) -> list[float]:
    """Return the colour at the luminance 1 in CIE XYZ."""
    return [colour.x / colour.y, 1.0, (1 - colour.x - colour.y) / colour.y]


def _multiply(left: Matrix, right: Matrix) -> Matrix:
    return [[sum(left[i][k] * right[k][j] for k in range(3)) for j in range(3)] for i in range(3)]


def _multiply_vector(matrix: Matrix, vector: list[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _invert(m: Matrix) -> Matrix:
    """Return the inverse of a matrix. Raises `ZeroDivisionError` if it has none."""
    cofactors = [
        [
            m[(j + 1) % 3][(i + 1) % 3] * m[(j + 2) % 3][(i + 2) % 3]
            - m[(j + 1) % 3][(i + 2) % 3] * m[(j + 2) % 3][(i + 1) % 3]
            for j in range(3)
        ]
        for i in range(3)
    ]
    determinant = sum(m[0][j] * cofactors[j][0] for j in range(3))
    return [[value / determinant for value in row] for row in cofactors]

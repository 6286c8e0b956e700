"""Reads the chunks of a PNG that libvips passes over: the frames of an animation, and what its colours mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from os import SEEK_CUR
from pathlib import Path
from typing import NamedTuple

_SIGNATURE_BYTES, _CHECKSUM_BYTES = 8, 4
_CHRM_BYTES = 32
"""The longest of the chunks that are read here."""
_UNIT = 100_000
"""What the integers in `gAMA` and `cHRM` are divided by."""
_SAME = 0.001
"""Up to this difference, x and y are those of the same colour."""


class Chromaticity(NamedTuple):
    """A colour without its brightness (CIE 1931)."""

    x: float
    y: float


class Primaries(NamedTuple):
    """What white and full red, green and blue are."""

    white: Chromaticity
    red: Chromaticity
    green: Chromaticity
    blue: Chromaticity


def _primaries(
    red: tuple[float, float],
    green: tuple[float, float],
    blue: tuple[float, float],
    white: tuple[float, float] = (0.3127, 0.3290),
) -> Primaries:
    """Return primaries from their x and y. The white is D65 by default."""
    return Primaries(Chromaticity(*white), Chromaticity(*red), Chromaticity(*green), Chromaticity(*blue))


SRGB = _primaries((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
_SMPTE_170M = _primaries((0.630, 0.340), (0.310, 0.595), (0.155, 0.070))
_PRIMARIES: dict[int, Primaries] = {
    1: SRGB,
    4: _primaries((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), white=(0.310, 0.316)),
    5: _primaries((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: _SMPTE_170M,
    7: _SMPTE_170M,
    9: _primaries((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: _primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), white=(0.314, 0.351)),
    12: _primaries((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    22: _primaries((0.630, 0.340), (0.295, 0.605), (0.155, 0.077)),
}
"""By their code point in ITU-T H.273, table 2."""

HLG_PEAK_NITS, REFERENCE_WHITE_NITS = 1000.0, 203.0
"""The display that HLG is meant for here, and what is as bright as white in sRGB (ITU-R BT.2100 and BT.2408)."""


class PngColours(NamedTuple):
    """What the samples of a PNG mean, where that is not sRGB."""

    primaries: Primaries
    decode: Callable[[float], float]
    """Linear light of a sample between 0 and 1; white is 1."""
    is_scene_light: bool = False
    """Whether that is the light of the scene and not yet that of a display, as in HLG."""


def decode_srgb(value: float) -> float:
    """Return the linear light of an sRGB sample (IEC 61966-2-1)."""
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def _decode_bt709(value: float) -> float:
    return value / 4.5 if value < 0.0812428583 else ((value + 0.0992968268) / 1.0992968268) ** (1 / 0.45)


def _decode_pq(value: float) -> float:
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = value ** (1 / m2)
    return float((max(0.0, power - c1) / (c2 - c3 * power)) ** (1 / m1) * 10_000 / REFERENCE_WHITE_NITS)


def _decode_hlg(value: float) -> float:
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return float(value * value / 3 if value <= 0.5 else (2.718281828459045 ** ((value - c) / a) + b) / 12)


def _power(exponent: float) -> Callable[[float], float]:
    return lambda value: value**exponent


_TRANSFERS: dict[int, Callable[[float], float]] = {
    1: _decode_bt709,
    4: _power(2.2),
    5: _power(2.8),
    6: _decode_bt709,
    8: _power(1.0),
    13: decode_srgb,
    14: _decode_bt709,
    15: _decode_bt709,
    16: _decode_pq,
    17: lambda value: value**2.6 * 52.37 / 48,
    18: _decode_hlg,
}
"""By their code point in ITU-T H.273, table 3."""
_HLG = 18


def count_frames(path: str) -> int:
    """Return the number of frames: the chunks that begin one (PNG, third edition, 11.3.6.2), as the announced may lie."""
    return max(1, sum(name == b"fcTL" for name, _ in _list_chunks(path)))


def read_colours(path: str) -> tuple[PngColours | None, bool]:
    """Return what the samples mean, None for sRGB, and whether that overrules an embedded profile.

    The first of the chunks `cICP`, `iCCP`, `sRGB`, and `gAMA` with `cHRM` decides (PNG, third edition, 11.3.2.1).
    """
    found: dict[bytes, bytes] = {}
    for name, content in _list_chunks(path):
        if name == b"IDAT":
            break
        if name in {b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM"}:
            found.setdefault(name, content)
    if (coded := _read_code_points(found.get(b"cICP", b""))) is not None:
        is_srgb = coded.primaries == SRGB and coded.decode is decode_srgb
        return (None if is_srgb else coded), True
    if b"iCCP" in found or b"sRGB" in found:
        return None, False
    return _read_gamma(found.get(b"gAMA", b""), found.get(b"cHRM", b"")), False


def _list_chunks(path: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name of each chunk and as much of its content as a chunk about colours has."""
    with Path(path).open("rb") as file:
        file.seek(_SIGNATURE_BYTES)
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big")
            content = file.read(min(length, _CHRM_BYTES))
            yield head[4:], content
            file.seek(length - len(content) + _CHECKSUM_BYTES, SEEK_CUR)


def _read_code_points(content: bytes) -> PngColours | None:
    if len(content) != 4:
        return None
    # Iterating over bytes yields the numbers.
    primaries, transfer, matrix, is_full_range = content
    if matrix != 0 or primaries not in _PRIMARIES or transfer not in _TRANSFERS:
        return None
    decode = _TRANSFERS[transfer]
    if not is_full_range:
        full = decode
        # Black and white are 16 and 235 of 255.
        decode = lambda value: full(min(1.0, max(0.0, (value * 255 - 16) / 219)))  # noqa: E731
    return PngColours(_PRIMARIES[primaries], decode, is_scene_light=transfer == _HLG)


def _read_gamma(gamma: bytes, chromaticities: bytes) -> PngColours | None:
    exponent = int.from_bytes(gamma, "big") / _UNIT if len(gamma) == 4 else 0.0
    primaries = _read_primaries(chromaticities) or SRGB
    has_other_primaries = any(
        abs(one.x - other.x) > _SAME or abs(one.y - other.y) > _SAME for one, other in zip(primaries, SRGB, strict=True)
    )
    # Programs write 1/2.2 for sRGB, which it is close to.
    is_srgb_curve = exponent <= 0 or (abs(exponent - 0.45455) < 0.001 and not has_other_primaries)
    if is_srgb_curve and not has_other_primaries:
        return None
    decode = decode_srgb if is_srgb_curve else _power(1 / exponent)
    return PngColours(primaries if has_other_primaries else SRGB, decode)


def _read_primaries(content: bytes) -> Primaries | None:
    """Return the content of a chunk `cHRM` (PNG, third edition, 11.3.2.1), None if no colours can be made of it."""
    if len(content) != _CHRM_BYTES:
        return None
    white, red, green, blue = (
        Chromaticity(*(int.from_bytes(content[at : at + 4], "big") / _UNIT for at in (start, start + 4)))
        for start in range(0, _CHRM_BYTES, 8)
    )
    area = (green.x - red.x) * (blue.y - red.y) - (blue.x - red.x) * (green.y - red.y)
    if min(white.y, red.y, green.y, blue.y) <= 0 or abs(area) < 0.001:
        return None
    return Primaries(white, red, green, blue)

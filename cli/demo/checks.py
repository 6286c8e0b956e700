"""Checks of the results of the demo. They compute what is expected by other code than the code that made the results."""

from __future__ import annotations

import csv
import hashlib
import io
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"

Row = tuple[str, str, float]
"""A species, an island, and the mean body mass there in grams."""


class CheckFailed(Exception):
    """A result is wrong. The message says what was expected and what was found."""


def check_image(content: bytes, image_format: str, size: tuple[int, int]) -> str:
    """Check the format, the size (within a pixel), that there is no metadata, and that the image is not blank.

    Returns the size that was found. Raises `CheckFailed`, as all checks do.
    """
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        image.load()
        _expect(image.format == image_format.upper(), f"a {image_format}", image.format)
        close = all(abs(found - wanted) <= 1 for found, wanted in zip(image.size, size, strict=True))
        _expect(close, f"{size[0]} x {size[1]}", f"{image.width} x {image.height}")
        _expect(not image.getexif(), "no EXIF", "some")
        shades = image.convert("L").getcolors() or []
        _expect(len(shades) > 100, "an image with more than 100 shades", f"{len(shades)} shades")
        return f"{image.width} x {image.height}"


def check_text(content: bytes, pages: int, phrases: Sequence[str]) -> str:
    """Check the number of pages, which form feeds separate, and that each phrase occurs, with any white space."""
    text = content.decode("utf-8")
    found = text.rstrip("\f").count("\f") + 1
    _expect(found == pages, f"{pages} pages", found)
    squeezed = re.sub(r"\s+", " ", text).casefold()
    for phrase in phrases:
        _expect(phrase.casefold() in squeezed, f"the words {phrase!r}", "none such")
    return f"{len(text):,} characters"


def compute_means(table: Path) -> list[Row]:
    """Return the mean body mass by species and island, from the rows of the CSV file that have a body mass."""
    masses: dict[tuple[str, str], list[float]] = defaultdict(list)
    with table.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["body_mass_g"] != "NA":
                masses[row["species"], row["island"]].append(float(row["body_mass_g"]))
    return [(*group, sum(values) / len(values)) for group, values in sorted(masses.items())]


def check_csv(content: bytes, expected: Sequence[Row]) -> str:
    """Check that the CSV report has a header and then these rows, in this order."""
    rows = list(csv.reader(io.StringIO(content.decode("utf-8-sig"), newline="")))
    return _check_rows(rows, expected)


def check_xlsx(content: bytes, expected: Sequence[Row]) -> str:
    """Check that the first sheet of the workbook has a header and then these rows. Reads its XML."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        shared: list[str] = []
        if "xl/sharedStrings.xml" in archive.namelist():
            strings = ElementTree.fromstring(archive.read("xl/sharedStrings.xml"))  # noqa: S314 - written by ourselves.
            shared = ["".join(item.itertext()) for item in strings.findall(f"{_SHEET}si")]
        sheet = ElementTree.fromstring(archive.read("xl/worksheets/sheet1.xml"))  # noqa: S314 - written by ourselves.
    rows = [[_read_cell(cell, shared) for cell in row.iter(f"{_SHEET}c")] for row in sheet.iter(f"{_SHEET}row")]
    return _check_rows(rows, expected)


def check_mail(mail_dir: Path, subject: str, attachments: Mapping[str, bytes]) -> str:
    """Check that exactly one message with the subject arrived, with exactly these attachments."""
    messages = [message_from_bytes(path.read_bytes(), policy=policy.default) for path in mail_dir.glob("*.eml")]
    ours = [message for message in messages if message["Subject"] == subject]
    _expect(len(ours) == 1, "one message", len(ours))
    found = {part.get_filename(): part.get_payload(decode=True) for part in ours[0].iter_attachments()}
    _expect(found.keys() == attachments.keys(), f"{sorted(attachments)} attached", sorted(map(str, found)))
    for name, content in attachments.items():
        _expect(found[name] == content, f"{name} with the bytes of the artifact", "other bytes")
    return f"{len(found)} attachments, equal to the artifacts"


def check_artifact(artifact: Mapping[str, Any], content: bytes) -> None:
    """Check that size and SHA-256 of the content are those in the task."""
    _expect(len(content) == artifact["size"], f"{artifact['size']} bytes", len(content))
    digest = hashlib.sha256(content).hexdigest()
    _expect(digest == artifact["sha256"], f"the sha256 {artifact['sha256']}", digest)


def _check_rows(rows: Sequence[Sequence[str]], expected: Sequence[Row]) -> str:
    _expect(len(rows) == len(expected) + 1, f"a header and {len(expected)} rows", len(rows))
    for row, (species, island, mass) in zip(rows[1:], expected, strict=True):
        _expect([*row[:2]] == [species, island], f"{species} on {island}", row)
        # The query rounds to a tenth of a gram.
        _expect(abs(float(row[2]) - mass) < 0.051, f"{mass:.1f} g for {species} on {island}", row[2])
    return f"{len(expected)} rows, means as expected"


def _read_cell(cell: ElementTree.Element, shared: Sequence[str]) -> str:
    if cell.get("t") == "inlineStr":
        return "".join(cell.itertext())
    value = cell.findtext(f"{_SHEET}v") or ""
    return shared[int(value)] if cell.get("t") == "s" else value


def _expect(is_right: bool, wanted: str, found: object) -> None:
    if not is_right:
        raise CheckFailed(f"expected {wanted}, found {found}")

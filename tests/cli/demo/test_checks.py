"""The checks of the demo accept right results and refuse wrong ones."""

from __future__ import annotations

import hashlib
import io
from email.message import EmailMessage
from pathlib import Path

import pytest
import xlsxwriter
from PIL import Image

from cli.demo.checks import (
    CheckFailed,
    check_artifact,
    check_csv,
    check_image,
    check_mail,
    check_text,
    check_xlsx,
    compute_means,
)

DATA = Path(__file__).resolve().parents[3] / "cli" / "demo" / "data"


def make_picture(image_format: str = "JPEG", size: tuple[int, int] = (160, 107), *, blank: bool = False) -> bytes:
    with Image.open(DATA / "rocket.jpg") as rocket:
        picture = Image.new("RGB", size) if blank else rocket.resize(size)
    content = io.BytesIO()
    picture.save(content, image_format)
    return content.getvalue()


def test_a_right_image_passes() -> None:
    assert check_image(make_picture(), "jpeg", (160, 107)) == "160 x 107"


@pytest.mark.parametrize(
    "content",
    [make_picture("PNG"), make_picture(size=(160, 120)), make_picture(blank=True)],
    ids=["wrong format", "wrong size", "blank"],
)
def test_a_wrong_image_fails(content: bytes) -> None:
    with pytest.raises(CheckFailed):
        check_image(content, "jpeg", (160, 107))


def test_an_image_with_metadata_fails() -> None:
    exif = Image.Exif()
    exif[0x010F] = "A camera"
    content = io.BytesIO()
    with Image.open(DATA / "rocket.jpg") as rocket:
        rocket.save(content, "JPEG", exif=exif)

    with pytest.raises(CheckFailed, match="no EXIF"):
        check_image(content.getvalue(), "jpeg", (640, 427))


def test_text_passes_with_any_white_space() -> None:
    check_text(b"LaTeX  News\nIssue\n30\fmore", 2, ["news issue 30"])


@pytest.mark.parametrize("content", [b"LaTeX News Issue 30", b"LaTeX News\fIssue 31"])
def test_text_without_the_pages_or_words_fails(content: bytes) -> None:
    with pytest.raises(CheckFailed):
        check_text(content, 2, ["issue 30"])


def test_the_computed_means_are_the_published_ones() -> None:
    means = compute_means(DATA / "penguins.csv")

    # From the vignette of palmerpenguins: 3700.7 g for Adelie, 3733.1 g for Chinstrap, 5076.0 g for Gentoo.
    assert [row[:2] for row in means] == [
        ("Adelie", "Biscoe"),
        ("Adelie", "Dream"),
        ("Adelie", "Torgersen"),
        ("Chinstrap", "Dream"),
        ("Gentoo", "Biscoe"),
    ]
    assert round(means[3][2], 1) == 3733.1
    assert round(means[4][2], 1) == 5076.0


def make_csv(*, error: float = 0) -> bytes:
    rows = [f"{species},{island},{mass + error:.1f}" for species, island, mass in compute_means(DATA / "penguins.csv")]
    return "\r\n".join(["species,island,mean", *rows, ""]).encode()


def make_xlsx(*, error: float = 0) -> bytes:
    content = io.BytesIO()
    with xlsxwriter.Workbook(content, {"in_memory": True}) as workbook:
        sheet = workbook.add_worksheet()
        sheet.write_row(0, 0, ["species", "island", "mean"])
        for number, (species, island, mass) in enumerate(compute_means(DATA / "penguins.csv"), start=1):
            sheet.write_row(number, 0, [species, island, round(mass + error, 1)])
    return content.getvalue()


def test_a_right_report_passes_in_both_formats() -> None:
    expected = compute_means(DATA / "penguins.csv")

    check_csv(make_csv(), expected)
    check_xlsx(make_xlsx(), expected)


def test_a_report_that_is_wrong_by_a_gram_fails_in_both_formats() -> None:
    expected = compute_means(DATA / "penguins.csv")

    with pytest.raises(CheckFailed):
        check_csv(make_csv(error=1), expected)
    with pytest.raises(CheckFailed):
        check_xlsx(make_xlsx(error=1), expected)


def put_mail(directory: Path, attachment: bytes) -> None:
    message = EmailMessage()
    message["Subject"] = "Report"
    message.set_content("See the attachment.")
    message.add_attachment(attachment, maintype="text", subtype="csv", filename="report.csv")
    (directory / f"{len(list(directory.iterdir()))}.eml").write_bytes(bytes(message))


def test_a_message_with_the_right_attachment_passes(tmp_path: Path) -> None:
    put_mail(tmp_path, b"a,b\r\n1,2\r\n")

    check_mail(tmp_path, "Report", {"report.csv": b"a,b\r\n1,2\r\n"})


def test_a_wrong_attachment_and_a_second_message_fail(tmp_path: Path) -> None:
    put_mail(tmp_path, b"a,b\r\n1,3\r\n")
    with pytest.raises(CheckFailed, match="with the bytes of the artifact"):
        check_mail(tmp_path, "Report", {"report.csv": b"a,b\r\n1,2\r\n"})

    put_mail(tmp_path, b"a,b\r\n1,2\r\n")
    with pytest.raises(CheckFailed, match="one message"):
        check_mail(tmp_path, "Report", {"report.csv": b"a,b\r\n1,2\r\n"})


def test_an_artifact_with_another_hash_fails() -> None:
    artifact = {"size": 2, "sha256": hashlib.sha256(b"ok").hexdigest()}

    check_artifact(artifact, b"ok")
    with pytest.raises(CheckFailed, match="sha256"):
        check_artifact(artifact, b"ko")

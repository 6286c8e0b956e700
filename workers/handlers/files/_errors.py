"""The errors that several kinds of files share. It imports nothing heavy, as limited children import it too."""

from __future__ import annotations

from workers.outcomes import Failed


def unreadable_image(detail: str = "The picture is damaged or cut short. Upload it again.") -> Failed:
    """Return the error of a picture that begins like its type and breaks the rules of it later."""
    return Failed("/problems/unreadable-image", "Unreadable image", detail)


def unsupported_image(kind: str) -> Failed:
    """Return the error of a picture that is whole and has a kind of pixels that Taskmill cannot convert."""
    return Failed(
        "/problems/unsupported-image",
        "Unsupported image",
        f"The picture has {kind}, which cannot be converted. Convert it to 8 or 16 bits of RGB or grey, and upload that.",
        data={"pixels": kind},
    )


def image_too_large(width: int, height: int, most_pixels: int) -> Failed:
    """Return the error of a picture whose header claims more pixels than Taskmill reads."""
    return Failed(
        "/problems/image-too-large",
        "Image too large",
        f"The picture has {width} by {height} pixels; at most {most_pixels} are read. Make it smaller first.",
        data={"width": width, "height": height, "most_pixels": most_pixels},
    )


def variant_too_large(name: str, width: int, height: int) -> Failed:
    """Return the error of a variant that is larger than its format, or a task, can hold."""
    return Failed(
        "/problems/image-too-large",
        "Image too large",
        f"The variant '{name}' would have {width} by {height} pixels, which is more than can be written. Ask for a "
        "smaller one.",
        data={"variant": name, "width": width, "height": height},
    )


def unreadable_pdf(detail: str = "The PDF document is damaged or cut short. Upload it again.") -> Failed:
    """Return the error of a PDF document that cannot be parsed."""
    return Failed("/problems/unreadable-pdf", "Unreadable PDF", detail)


def encrypted_pdf() -> Failed:
    """Return the error of a PDF document that needs a password."""
    return Failed(
        "/problems/encrypted-pdf",
        "Encrypted PDF",
        "The PDF document cannot be read without a password. Remove the password, and upload it again.",
    )


def no_such_page(page: int, pages: int) -> Failed:
    """Return the error of a page beyond the last one."""
    return Failed(
        "/problems/no-such-page",
        "No such page",
        f"Page {page} was requested, but the document has {pages}.",
        data={"pages": pages},
    )


def too_much_text(most_bytes: int) -> Failed:
    """Return the error of more text than one task may write."""
    return Failed(
        "/problems/output-too-large",
        "Output too large",
        f"The text has more than {most_bytes} bytes. Extract fewer pages at once.",
        data={"most_bytes": most_bytes},
    )

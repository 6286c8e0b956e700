"""The errors that several files kinds share. Imports nothing heavy: children use it too."""

from __future__ import annotations

from workers.outcomes import Failed


def unreadable_image(detail: str = "The picture is damaged or cut short.") -> Failed:
    """The error of a picture that begins as its type does and then breaks it."""
    return Failed("/problems/unreadable-image", "Unreadable image", detail)


def image_too_large(width: int, height: int, most_pixels: int) -> Failed:
    """The error of a picture that claims more pixels than are read."""
    return Failed(
        "/problems/image-too-large",
        "Image too large",
        f"The picture claims {width} by {height} pixels; at most {most_pixels} are read.",
        data={"width": width, "height": height, "most_pixels": most_pixels},
    )


def variant_too_large(name: str, width: int, height: int) -> Failed:
    """The error of a variant that its format, or a task, cannot hold."""
    return Failed(
        "/problems/image-too-large",
        "Image too large",
        f"The variant '{name}' would have {width} by {height} pixels, which is more than can be written.",
        data={"variant": name, "width": width, "height": height},
    )


def unreadable_pdf(detail: str = "The PDF document is damaged or cut short.") -> Failed:
    """The error of a PDF document that cannot be parsed."""
    return Failed("/problems/unreadable-pdf", "Unreadable PDF", detail)


def encrypted_pdf() -> Failed:
    """The error of a PDF document that asks for a password."""
    return Failed("/problems/encrypted-pdf", "Encrypted PDF", "The PDF document cannot be read without a password.")


def no_such_page(page: int, pages: int) -> Failed:
    """The error of a page beyond the end."""
    return Failed(
        "/problems/no-such-page",
        "No such page",
        f"Page {page} was asked for; the document has {pages}.",
        data={"pages": pages},
    )


def too_much_text(most_bytes: int) -> Failed:
    """The error of more text than one task may make."""
    return Failed(
        "/problems/output-too-large",
        "Output too large",
        f"The text is larger than {most_bytes} bytes.",
        data={"most_bytes": most_bytes},
    )

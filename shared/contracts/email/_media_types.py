"""Media types of attachments, such as `text/calendar; method=REQUEST` (RFC 2045 section 5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_MEDIA_TYPE_LENGTH = 255

# RFC 6838 section 4.2, `restricted-name`.
_NAME = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
_TOKEN = r"[!#$%&'*+\-.^_`|~{}0-9A-Za-z]+"
_QUOTED = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
_TYPE = re.compile(rf"({_NAME})/({_NAME})")
_PARAMETER = re.compile(rf"[ \t]*;[ \t]*({_TOKEN})=({_TOKEN}|{_QUOTED})")


class BadMediaType(ValueError):
    """The text is not a media type that an attachment can have. The message states why, for the caller."""


@dataclass(frozen=True)
class MediaType:
    """A media type with its parameters, whose names are in lower case and unique."""

    maintype: str
    subtype: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The type without its parameters, such as `text/calendar`."""
        return f"{self.maintype}/{self.subtype}"

    def __str__(self) -> str:
        """Return the type as a field `Content-Type` has it; parsing it returns an equal one."""
        return self.name + "".join(f"; {name}={_quote(value)}" for name, value in self.parameters)


def parse_media_type(text: str) -> MediaType:
    """Parse the media type of an attachment. Raises `BadMediaType`."""
    text = text.strip(" \t")
    found = _TYPE.match(text)
    if found is None:
        raise BadMediaType("A media type is two names with a slash between them, such as `text/calendar`.")
    maintype, subtype = found[1].lower(), found[2].lower()
    if maintype == "multipart":
        raise BadMediaType("An attachment is one file and cannot have a `multipart/` type.")
    if maintype == "message" and subtype != "rfc822":
        raise BadMediaType("Of the `message/` types, only `message/rfc822` can be attached.")
    parameters: dict[str, str] = {}
    position = found.end()
    while position < len(text):
        found = _PARAMETER.match(text, position)
        if found is None:
            raise BadMediaType(
                'After a media type, only parameters such as `; method=REQUEST` or `; a="b c"` may follow.'
            )
        name = found[1].lower()
        if name in parameters:
            raise BadMediaType(f"The parameter `{name}` is given twice.")
        value = found[2]
        parameters[name] = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
        position = found.end()
    return MediaType(maintype, subtype, tuple(parameters.items()))


def _quote(value: str) -> str:
    if re.fullmatch(_TOKEN, value):
        return value
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'

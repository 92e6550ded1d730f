"""Text files as every reader opens them: unpacked, decoded, and with undecodable bytes kept visible."""

from __future__ import annotations

import codecs
import gzip
import re
from typing import TYPE_CHECKING, TextIO, cast

from chora_mp.errors import SourceError

if TYPE_CHECKING:
    from pathlib import Path

    from chora_mp.job import Source

# What `surrogateescape` makes of bytes that don't decode (PEP 383); no text decodes to these.
_ESCAPED = re.compile("[\udc80-\udcff]")


def path_of(source: Source) -> Path:
    """The path of a source that is a file; raises `SourceError` where there is none."""
    if source.path is None:
        raise SourceError(f"{source.name}: has no path; name the file that holds the records")
    return source.path


def open_text(source: Source, newline: str | None = None) -> TextIO:
    """The text of the source, without a byte order mark; bytes that don't decode are for `undecodable`."""
    encoding = source.encoding
    if codecs.lookup(encoding).name == "utf-8":
        encoding = "utf-8-sig"
    opener = gzip.open if source.gzip else open
    file = opener(path_of(source), "rt", encoding=encoding, errors="surrogateescape", newline=newline)
    return cast("TextIO", file)


def undecodable(text: str) -> int | None:
    """Where in a text from `open_text` the first byte stands that didn't decode."""
    # Asking first whether all is ASCII costs nothing and spares most texts the search.
    found = None if text.isascii() else _ESCAPED.search(text)
    return found.start() if found else None


def undecoded(source: Source, character: str) -> str:
    """What messages say of an undecodable byte, given the character that stands for it."""
    byte = ord(character) - 0xDC00
    return (
        f"not valid {source.encoding} (found the byte 0x{byte:02x}); "
        f"save it as {source.encoding} or set encoding: to what it is"
    )

"""Records from everything that isn't JSONL: one module `<format>_reader` each, imported when it is needed."""

from __future__ import annotations

import zlib
from importlib import import_module
from typing import TYPE_CHECKING

from chora_mp.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from chora_mp.job import Source
    from chora_mp.sources.shapes import Pair


def read_records(source: Source) -> Iterator[Pair]:
    """Line and record, one after the other, of a source of any format but JSONL.

    The line counts from 1 and is where the record begins: in the file, or among a query's rows; None for
    callables and where it can't be told. What can't be a record is a `BadRecord` in its place. Raises
    `SourceError`, and nothing else, where the source cannot be read on.
    """
    read: Callable[[Source], Iterator[Pair]] = import_module(f"chora_mp.sources.{source.format}_reader").read
    try:
        yield from read(source)
    except (
        OSError,
        EOFError,
        zlib.error,
    ) as error:  # the latter two, and OSErrors without strerror, are gzip's
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{source.name}: cannot be read ({reason}); check the file") from error
    except LookupError as error:
        raise SourceError(f"{source.name}: {error}; set encoding: to one that Python knows") from error
    except RecursionError as error:
        raise SourceError(f"{source.name}: nested too deeply; make it flatter") from error
    except MemoryError as error:
        raise SourceError(f"{source.name}: does not fit into memory; split it, or use format: jsonl") from error
    except ValueError as error:  # UnicodeError among them, from encodings whose bytes can't be kept apart
        raise SourceError(f"{source.name}: cannot be read ({error}); check the file and encoding:") from error

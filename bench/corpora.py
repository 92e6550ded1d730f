"""The benchmark's records: `python bench/corpora.py [NAME|all] [--folder build/corpora] [--force]`.

unicode.jsonl           a record for every named character of this Python's Unicode tables, about 30 MB
aws-operations.jsonl    a record for every operation of every AWS service that botocore describes, about 91 MB
tables.jsonl            made-up orders, a thousand rows a page: attributes and nothing else, about 96 MB
heavy.jsonl             made-up branch offices for templates with all that Jinja2 has, about 50 MB
skewed.jsonl            made-up invoices, one in a hundred of them a hundred times as long, about 40 MB

A file that is there already is left alone without `--force`.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import sys
import tempfile
import time
import unicodedata
from html.entities import codepoint2name
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from inventions import heavy_records, skewed_records, tables_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

TYPE_NAMES = {
    "blob": "bytes",
    "boolean": "boolean",
    "integer": "integer",
    "long": "long integer",
    "float": "float",
    "double": "double",
    "string": "string",
    "timestamp": "timestamp",
}
DEPTH = 2  # levels of members below input and output; gives 91 MB, 4.6 KB a record


class MissingExtraError(Exception):
    """A package that only the `bench` extra brings is not installed."""


def unicode_records() -> Iterator[dict[str, Any]]:
    """A record for every code point that has a name, in code point order."""
    named = [code for code in range(sys.maxunicode + 1) if unicodedata.name(chr(code), None)]
    for before, code, after in zip([None, *named], named, [*named[1:], None], strict=False):
        yield character(code, before, after)


def character(code: int, before: int | None, after: int | None) -> dict[str, Any]:
    """What the Unicode database knows of one character; `folder` holds at most 256 of them."""
    char = chr(code)
    return {
        "code": notation(code),
        "name": unicodedata.name(char),
        "char": char,
        "category": unicodedata.category(char),
        "folder": f"{code >> 16:02X}/{code >> 8 & 0xFF:02X}",
        "decomposition": unicodedata.decomposition(char) or None,
        "numeric": unicodedata.numeric(char, None),
        "bidi": unicodedata.bidirectional(char),
        "utf8": char.encode().hex(" ").upper(),
        "entity": f"&{codepoint2name[code]};" if code in codepoint2name else None,
        "case": other_case(char),
        "previous": None if before is None else notation(before),
        "next": None if after is None else notation(after),
    }


def other_case(char: str) -> dict[str, str] | None:
    """What upper and lower casing make of a character; None where they change nothing."""
    if char.upper() == char == char.lower():
        return None
    return {"upper": char.upper(), "lower": char.lower()}


def notation(code: int) -> str:
    """The usual name of a code point: U+ and at least four digits."""
    return f"U+{code:04X}"


def aws_records() -> Iterator[dict[str, Any]]:
    """A record for every operation in the latest version of each service, sorted by service and name."""
    try:
        from botocore import xform_name
        from botocore.loaders import Loader
    except ImportError as error:
        message = "aws: botocore is not installed; pip install 'chora-mp[bench]' (or botocore==1.44.5)"
        raise MissingExtraError(message) from error
    loader = Loader()
    for sid in sorted(loader.list_available_services("service-2")):
        model = loader.load_service_model(sid, "service-2")
        for name in sorted(model["operations"]):
            yield operation(sid, name, xform_name(name), model)


def operation(sid: str, name: str, call: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """One operation with its input, output and errors spelled out; `call` is its name in Python."""
    about, spec, shapes = model["metadata"], model["operations"][name], model["shapes"]
    return {
        "id": f"{sid}.{name}",
        "sid": sid,
        "service": about["serviceFullName"],
        "service_id": about.get("serviceId", sid),
        "api_version": about["apiVersion"],
        "protocol": about["protocol"],
        "name": name,
        "call": call,
        "http": {"method": spec["http"]["method"], "uri": spec["http"]["requestUri"]},
        "doc": text(spec.get("documentation", "")),
        "documentation_url": spec.get("documentationUrl"),
        "idempotent": bool(spec.get("idempotent")),
        "deprecated": bool(spec.get("deprecated")),
        "deprecated_message": spec.get("deprecatedMessage"),
        "auth": spec.get("auth", []) or ([spec["authtype"]] if "authtype" in spec else []),
        "input": members(spec.get("input", {}), shapes, DEPTH),
        "output": members(spec.get("output", {}), shapes, DEPTH),
        "errors": [fault(error["shape"], shapes) for error in spec.get("errors", [])],
    }


def members(reference: Mapping[str, Any], shapes: Mapping[str, Any], depth: int) -> list[dict[str, Any]]:
    """The members of the structure that `reference` leads to, through lists and maps, `depth` levels down."""
    shape = structure(reference, shapes)
    if shape is None or depth == 0:
        return []
    required = set(shape.get("required", ()))
    return [member(name, inner, shapes, name in required, depth) for name, inner in shape.get("members", {}).items()]


def member(
    name: str, reference: Mapping[str, Any], shapes: Mapping[str, Any], required: bool, depth: int
) -> dict[str, Any]:
    """One member of a structure with the members below it."""
    shape = shapes[reference["shape"]]
    return {
        "name": name,
        "type": type_of(reference, shapes),
        "required": required,
        "doc": text(reference.get("documentation") or shape.get("documentation", "")),
        "bounds": bounds(shape),
        "enum": shape.get("enum", []),
        "members": members(reference, shapes, depth - 1),
    }


def structure(reference: Mapping[str, Any], shapes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The structure at the end of a reference, through any lists and maps; None where there is none."""
    shape = shapes.get(reference.get("shape", ""))
    while shape is not None and shape["type"] in {"list", "map"}:
        shape = shapes[shape["member" if shape["type"] == "list" else "value"]["shape"]]
    return shape if shape is not None and shape["type"] == "structure" else None


def type_of(reference: Mapping[str, Any], shapes: Mapping[str, Any]) -> str:
    """The type of a shape in words, as "list of Tag"."""
    name = reference["shape"]
    shape = shapes[name]
    if shape["type"] == "list":
        return f"list of {type_of(shape['member'], shapes)}"
    if shape["type"] == "map":
        return f"map of {type_of(shape['key'], shapes)} to {type_of(shape['value'], shapes)}"
    return str(TYPE_NAMES.get(shape["type"], name))


def bounds(shape: Mapping[str, Any]) -> str | None:
    """The least and greatest value or length that a shape allows, as "1 to 64" or "at least 1"."""
    match shape:
        case {"min": least, "max": greatest} if least == greatest:
            return f"exactly {least}"
        case {"min": least, "max": greatest}:
            return f"{least} to {greatest}"
        case {"min": least}:
            return f"at least {least}"
        case {"max": greatest}:
            return f"at most {greatest}"
    return None


def fault(name: str, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """An error that an operation may answer with."""
    shape = shapes[name]
    about = shape.get("error", {})
    return {
        "name": about.get("code", name),
        "status": about.get("httpStatusCode"),
        "sender": bool(about.get("senderFault")),
        "doc": text(shape.get("documentation", "")),
    }


def text(markup: str) -> str:
    """The text of a piece of HTML: empty lines between paragraphs, dashes for lists, back quotes for code."""
    markup = re.sub(r"\s+", " ", markup)
    markup = re.sub(r"</?code>", "`", markup)
    markup = re.sub(r"\s*<li>\s*(<p>)?\s*", "\n- ", markup)
    markup = re.sub(r"\s*</?(p|ul|ol|dl|dt|dd|note|important|div|h\d|pre)( [^>]*)?>\s*", "\n\n", markup)
    markup = html.unescape(re.sub(r"<[^>]+>", "", markup))
    return re.sub(r"\n\s*\n\s*", "\n\n", re.sub(r"\n+(?=- )", "\n", markup)).strip()


CORPORA: dict[str, tuple[str, Callable[[], Iterable[dict[str, Any]]]]] = {
    "unicode": ("unicode.jsonl", unicode_records),
    "aws": ("aws-operations.jsonl", aws_records),
    "tables": ("tables.jsonl", tables_records),
    "heavy": ("heavy.jsonl", heavy_records),
    "skewed": ("skewed.jsonl", skewed_records),
}


def write(records: Iterable[dict[str, Any]], target: Path) -> int:
    """Write one JSON line a record, all or nothing; returns how many."""
    target.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".corpora-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            for record in records:
                file.write(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
                count += 1
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return count


def build(name: str, folder: Path, *, force: bool = False, limit: int | None = None) -> str:
    """Make one corpus where it is missing, and say what was done."""
    file_name, records = CORPORA[name]
    target = folder / file_name
    if target.exists() and not force:
        return f"{target}: there already ({target.stat().st_size / 1e6:.1f} MB); --force makes it anew"
    start = time.perf_counter()
    count = write(islice(records(), limit), target)
    size = target.stat().st_size
    seconds = time.perf_counter() - start
    average = size / max(count, 1)
    return f"{target}: {count:,} records, {size / 1e6:.1f} MB, {average:,.0f} bytes each, {seconds:.1f} s"


def main() -> int:
    """Build the corpora that the command line asks for; 0 unless one could not be built."""
    parser = argparse.ArgumentParser(description="Build the records of the benchmark.")
    parser.add_argument("corpus", nargs="?", choices=[*CORPORA, "all"], default="all")
    parser.add_argument("--folder", type=Path, default=Path("build/corpora"), help="default: %(default)s")
    parser.add_argument("--limit", type=int, help="only the first so many records")
    parser.add_argument("--force", action="store_true", help="make it anew where it is there already")
    options = parser.parse_args()
    failed = False
    for name in CORPORA if options.corpus == "all" else [options.corpus]:
        try:
            print(build(name, options.folder, force=options.force, limit=options.limit))
        except MissingExtraError as error:
            print(error, file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

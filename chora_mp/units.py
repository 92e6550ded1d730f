"""Durations, sizes and rates as people write them: `90s`, `200MB`, `60/min`.

Each function takes text or a bare number, and raises `ValueError` with a message of the shape
`what is wrong (what was found); what to do`, to be put behind the name of the key or option. Units may be in
capitals or not: nobody means a bit where a byte can be meant.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(.*)", re.DOTALL)
_LONGEST = 40  # characters; nobody means more, and digits without end cost quadratic time


class _Kind(NamedTuple):
    """A kind of quantity: its name, its units as multiples of the first, its bounds, and how to write it."""

    name: str
    units: Mapping[str, Fraction]
    lowest: Fraction
    highest: Fraction
    advice: str


_DURATION = _Kind(
    "a duration",
    {
        "": Fraction(1),
        "ms": Fraction(1, 1000),
        "s": Fraction(1),
        "m": Fraction(60),
        "min": Fraction(60),
        "h": Fraction(3600),
        "d": Fraction(86400),
    },
    Fraction(1, 1000),
    Fraction(10**9),  # 31 years; the operating system's timers overflow not far beyond (threading.TIMEOUT_MAX)
    "write seconds, or a number with ms, s, m, h or d, such as 90s or 1.5h",
)
_SIZE = _Kind(
    "a size",
    {
        "": Fraction(1),
        "b": Fraction(1),
        # SI prefixes are powers of ten, IEC prefixes powers of two (IEC 80000-13).
        **{f"{prefix}b": Fraction(1000**power) for power, prefix in enumerate("kmgt", 1)},
        **{f"{prefix}ib": Fraction(1024**power) for power, prefix in enumerate("kmgt", 1)},
    },
    Fraction(1),
    Fraction(2**63 - 1),  # what a resource limit can hold
    "write bytes, or a number with KB, MB, GB, KiB, MiB or GiB, such as 200MB or 1.5GiB",
)
_RATE = _Kind(
    "a rate",
    {
        "": Fraction(1),
        **dict.fromkeys(("/s", "/sec", "/second"), Fraction(1)),
        **dict.fromkeys(("/m", "/min", "/minute"), Fraction(1, 60)),
        **dict.fromkeys(("/h", "/hour"), Fraction(1, 3600)),
        **dict.fromkeys(("/d", "/day"), Fraction(1, 86400)),
    },
    Fraction(1, 10**9),
    Fraction(10**9),
    "write a number a second, or a number with /s, /min, /hour or /day, such as 60/min",
)


def seconds(text: object) -> float:
    """The seconds in a duration such as `250ms`, `60s`, `5m`, `1.5h`, or a number of seconds.

    From 1 ms to 10⁹ s; raises `ValueError`.
    """
    return float(_amount(text, _DURATION))


def size(text: object) -> int:
    """The bytes in a size such as `200MB` (10⁶), `512KiB` (2¹⁰), or a number of bytes.

    From 1 byte to 2⁶³ - 1, rounded to whole bytes; raises `ValueError`.
    """
    return round(_amount(text, _SIZE))


def rate(text: object) -> float:
    """The events per second in a rate such as `60/min`, `5/s`, `1000/hour`, or a number per second.

    From 10⁻⁹ to 10⁹ a second; raises `ValueError`.
    """
    return float(_amount(text, _RATE))


def quoted(value: object) -> str:
    """A value as messages quote it, in at most 60 characters."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to spell integers past 4,300 digits
        text = hex(value) if isinstance(value, int) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _amount(value: object, kind: _Kind) -> Fraction:
    """The quantity in units of its kind's first unit, exact and within its bounds."""
    number = _parsed(value.strip(), kind) if isinstance(value, str) else _plain(value)
    if number is None:
        raise ValueError(f"not {kind.name} (found {quoted(value)}); {kind.advice}")
    if number <= 0:
        raise ValueError(f"must be more than 0 (found {quoted(value)}); {kind.advice}")
    if not kind.lowest <= number <= kind.highest:
        extreme = "small" if number < kind.lowest else "large"
        raise ValueError(f"too {extreme} for {kind.name} (found {quoted(value)}); {kind.advice}")
    return number


def _parsed(text: str, kind: _Kind) -> Fraction | None:
    """The quantity that `text` spells, or None where it spells none of this kind."""
    sign, text = (-1, text[1:]) if text.startswith("-") else (1, text)
    match = _AMOUNT.fullmatch(text) if len(text) <= _LONGEST else None
    unit = kind.units.get("".join(match[2].lower().split())) if match else None
    return sign * Fraction(Decimal(match[1])) * unit if match and unit else None


def _plain(value: object) -> Fraction | None:
    """The number that `value` is; None for anything else, infinity and Python's boolean integers too."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return Fraction(value)
    except (OverflowError, ValueError):
        return None


PRIORITIES = {"high": 100.0, "medium": 50.0, "low": 0.0}
"""What the words for a priority stand for; medium is the usual one."""


def priority(value: object) -> float | None:
    """A priority as a word or a number says it; None for what says none. Who asks tells what was found."""
    if isinstance(value, str):
        return PRIORITIES.get(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None

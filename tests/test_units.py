"""Durations, sizes and rates as people write them."""

import math
import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chora_mp.units import rate, seconds, size

DURATION = "write seconds, or a number with ms, s, m, h or d, such as 90s or 1.5h"
SIZE = "write bytes, or a number with KB, MB, GB, KiB, MiB or GiB, such as 200MB or 1.5GiB"
RATE = "write a number a second, or a number with /s, /min, /hour or /day, such as 60/min"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60s", 60.0),
        ("5m", 300.0),
        ("5min", 300.0),
        ("1.5h", 5400.0),
        ("250ms", 0.25),
        ("1d", 86400.0),
        (" 2 s ", 2.0),
        (".5s", 0.5),
        ("7", 7.0),
        (7, 7.0),
        (0.25, 0.25),
    ],
)
def test_seconds(text, expected):
    """Every unit of time, and bare numbers as seconds."""
    assert expected == seconds(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("200MB", 200_000_000),
        ("1.5GB", 1_500_000_000),
        ("0.1GB", 100_000_000),
        ("512KiB", 524_288),
        ("1GiB", 1_073_741_824),
        ("2TB", 2 * 10**12),
        ("200mb", 200_000_000),
        ("3 B", 3),
        ("4096", 4096),
        (4096, 4096),
        (2e8, 200_000_000),
    ],
)
def test_size(text, expected):
    """Decimal and binary units are told apart, and the result is whole bytes."""
    assert (expected, int) == (size(text), type(size(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("60/min", 1.0),
        ("60 / m", 1.0),
        ("5/s", 5.0),
        ("1800/hour", 0.5),
        ("86400/day", 1.0),
        (2.5, 2.5),
        ("3", 3.0),
    ],
)
def test_rate(text, expected):
    """Rates come out per second, whatever they were given in."""
    assert expected == rate(text)


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (seconds, "60x", f"not a duration (found '60x'); {DURATION}"),
        (seconds, "", f"not a duration (found ''); {DURATION}"),
        (seconds, "1h30m", f"not a duration (found '1h30m'); {DURATION}"),
        (seconds, "٣s", f"not a duration (found '٣s'); {DURATION}"),
        (seconds, True, f"not a duration (found True); {DURATION}"),
        (seconds, None, f"not a duration (found None); {DURATION}"),
        (seconds, [1], f"not a duration (found [1]); {DURATION}"),
        (seconds, math.inf, f"not a duration (found inf); {DURATION}"),
        (seconds, math.nan, f"not a duration (found nan); {DURATION}"),
        (seconds, 0, f"must be more than 0 (found 0); {DURATION}"),
        (seconds, "-5s", f"must be more than 0 (found '-5s'); {DURATION}"),
        (seconds, "0.1ms", f"too small for a duration (found '0.1ms'); {DURATION}"),
        (seconds, "99999d", f"too large for a duration (found '99999d'); {DURATION}"),
        (size, "200 Mbit", f"not a size (found '200 Mbit'); {SIZE}"),
        (size, "200M", f"not a size (found '200M'); {SIZE}"),
        (size, "0.4B", f"too small for a size (found '0.4B'); {SIZE}"),
        (size, 2**63, f"too large for a size (found 9223372036854775808); {SIZE}"),
        (rate, "60/fortnight", f"not a rate (found '60/fortnight'); {RATE}"),
        (rate, "0/min", f"must be more than 0 (found '0/min'); {RATE}"),
    ],
)
def test_what_is_no_quantity(parse, value, message):
    """The message says what was found and what to write."""
    with pytest.raises(ValueError, match=re.escape(message) + "$"):
        parse(value)


@given(st.decimals(min_value="0.001", max_value="9999", places=3), st.sampled_from([("s", 1), ("h", 3600)]))
def test_seconds_are_exact(number, unit):
    """A duration is the nearest float to what was written, not a product of rounded ones."""
    assert float(Fraction(number) * unit[1]) == seconds(f"{number}{unit[0]}")


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_sizes_in_bytes_come_back(number):
    """Bytes are never rounded, past what a float can hold, too."""
    assert (number, number) == (size(number), size(f"{number}B"))


@given(
    st.sampled_from([seconds, size, rate]),
    st.one_of(
        st.text(),
        st.integers(),
        st.floats(),
        st.text(alphabet="0123456789.eE+- /smhkKMGiB", max_size=60),
        st.sampled_from(["9" * 10**6, 1e308, 5e-324]),
        st.sampled_from([1, -1]).map(lambda sign: sign * 10**10_000),
    ),
)
def test_nothing_but_value_errors(parse, value):
    """Whatever is given, it is a positive, finite quantity or a `ValueError`."""
    try:
        result = parse(value)
    except ValueError as error:
        message = str(error)
    else:
        assert 0 < result < math.inf
        return
    assert "; write " in message
    assert len(message) < 250

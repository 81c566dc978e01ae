"""Quantities of bytes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifl.api.quantity import LENGTH_MAX, PATTERN, UNITS, parse_bytes


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (1, 1),
        ("1", 1),
        ("512Mi", 512 << 20),
        ("2Gi", 2 << 30),
        ("1.5Gi", 3 << 29),
        ("1k", 1000),
        ("46.8M", 46_800_000),
        ("3 Ti", 3 << 40),
        ("0.5Ki", 512),
    ],
)
def test_known_quantities(written: object, size: int) -> None:
    assert parse_bytes(written) == size


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("", "number and a unit"),
        ("Gi", "number and a unit"),
        ("-1Gi", "number and a unit"),
        ("1e3", "number and a unit"),
        ("1,5Gi", "number and a unit"),
        ("512MB", "unit 'MB'"),
        ("512m", "unit 'm'"),
        ("1gi", "unit 'gi'"),
        (0, "at least 1"),
        ("0.1", "whole number of bytes"),
        (True, "number of bytes"),
        (None, "number of bytes"),
        (1.5, "number of bytes"),
        ([], "number of bytes"),
    ],
)
def test_what_is_no_quantity_says_so(written: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse_bytes(written)


@given(st.integers(1, 10**9), st.sampled_from(sorted(UNITS)))
def test_whole_numbers_of_any_unit(number: int, unit: str) -> None:
    assert parse_bytes(f"{number}{unit}") == number * UNITS[unit]


@given(
    st.one_of(st.integers(0, 10**15).map(str), st.decimals(0, 10**6, places=3).map(str)),
    st.sampled_from(["", " ", "0", "  "]),
    st.sampled_from([*UNITS, "ki", "E"]),
)
def test_the_pattern_takes_what_is_taken(number: str, between: str, unit: str) -> None:
    text = f"{number}{between}{unit}"
    try:
        taken = parse_bytes(text) > 0
    except ValueError:
        taken = False
    matches = re.fullmatch(PATTERN, text) is not None and len(text) <= LENGTH_MAX
    assert matches == taken

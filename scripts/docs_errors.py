"""docs/errors.md out of the table of codes (lifl/api/codes.py).

    .venv/bin/python scripts/docs_errors.py > docs/errors.md

A test compares the two.
"""

from __future__ import annotations

import sys

from lifl.api.codes import CODES, Code
from lifl.errors import LiflError

HEAD = """\
# Errors

Every rejection and every failure has a **code**, a sentence that names the value and the way out,
and says whether the same request can succeed later. In Python an error is an exception of
`lifl.errors` whose `code` is one of these and whose `retryable` says the latter; over the wire it
is `{"t": "reject", "code": ..., "text": ..., "retry": ...}`; on the command line it is one line.

This page is made by `scripts/docs_errors.py` from `lifl/api/codes.py`.

| code | exception | try again? | |
|---|---|---|---|
"""


def page() -> str:
    rows = "".join(
        f"| [`{code.name}`](#{code.name}) | `{code.kind.__name__}` | {_again(code)} "
        f"| {code.meaning} |\n"
        for code in CODES.values()
    )
    parts = [HEAD + rows]
    by_kind: dict[type[LiflError], list[Code]] = {}
    for code in CODES.values():
        by_kind.setdefault(code.kind, []).append(code)
    for kind, codes in by_kind.items():
        parts.append(f"\n## {kind.__name__}\n")
        parts += [
            f"\n### {code.name}\n\n{code.meaning}\n\n* Cause: {_lower(code.cause)}\n"
            f"* What to do: {_lower(code.fix)}\n"
            for code in codes
        ]
    return "".join(parts)


def _again(code: Code) -> str:
    return "yes" if code.retryable else "no"


def _lower(sentence: str) -> str:
    """As it goes on after a colon, but for names and abbreviations."""
    first = sentence.split()[0]
    return sentence if first[1:] != first[1:].lower() else sentence[0].lower() + sentence[1:]


if __name__ == "__main__":
    sys.stdout.write(page())

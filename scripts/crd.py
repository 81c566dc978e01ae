"""Writes the chart's CustomResourceDefinition; with --check says whether it would change.

.venv/bin/python scripts/crd.py [--check]
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

from lifl.api.crd import definition

PAGE: Final = Path(__file__).resolve().parent.parent / "charts" / "lifl" / "files" / "fljobs.yaml"

HEAD: Final = """\
# Generated from lifl/api by scripts/crd.py; a test fails when the two differ.
"""


def text() -> str:
    yaml = YAML()
    yaml.width = 100
    yaml.indent(mapping=2, sequence=4, offset=2)
    written = io.StringIO()
    yaml.dump(definition(), written)
    return HEAD + written.getvalue()


def main() -> int:
    wanted = text()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text() == wanted:
            return 0
        print(f"{PAGE.name} is out of date: run scripts/crd.py", file=sys.stderr)
        return 1
    PAGE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())

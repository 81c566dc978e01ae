"""descriptor.py is what the C compiler makes of descriptor.h."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lifl.proxy_ebpf import descriptor as mirror
from lifl.proxy_ebpf.build import FOLDER
from lifl.proxy_ebpf.descriptor import Descriptor, Kind

FIELDS = ("slot", "generation", "round", "source", "kind", "version")
PROGRAM = f"""
#include <stddef.h>
#include <stdio.h>
#include "descriptor.h"
#define FIELD(name) printf("\\"%s\\": [%zu, %zu],", #name, \\
    offsetof(struct lifl_descriptor, name), sizeof(((struct lifl_descriptor *)0)->name))
#define VALUE(name) printf("\\"%s\\": %d,", #name, name)
int main(void)
{{
    printf("{{");
    {"".join(f"FIELD({name});" for name in FIELDS)}
    {"".join(f"VALUE(LIFL_{kind.name});" for kind in Kind)}
    VALUE(LIFL_LANE);
    VALUE(LIFL_DESCRIPTOR_VERSION);
    printf("\\"key\\": %zu, \\"size\\": %zu}}", sizeof(struct lifl_endpoint),
           sizeof(struct lifl_descriptor));
}}
"""


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler: install cc or clang")
    folder = tmp_path_factory.mktemp("header")
    (folder / "print.c").write_text(PROGRAM)
    subprocess.run(
        [compiler, "-I", str(FOLDER), "-o", str(folder / "print"), str(folder / "print.c")],
        check=True,
    )
    printed = subprocess.run([str(folder / "print")], check=True, capture_output=True, text=True)
    found: dict[str, object] = json.loads(printed.stdout)
    return found


def test_layout(header: dict[str, object]) -> None:
    """A value in one field alone appears at the header's offset, and nowhere else."""
    plain = dict.fromkeys(FIELDS, 0) | {"kind": 1, "version": mirror.VERSION}
    base = Descriptor(0, 0, 0, 0, Kind.UPDATE).pack()
    assert len(base) == mirror.SIZE == header["size"]
    values = {"slot": 0x81020304, "generation": 0x15161718, "round": 0x25262728, "source": 0x3132}
    for name in FIELDS:
        at, size = header[name]  # type: ignore[misc]
        want = bytearray(base)
        value = values.get(name, plain[name] if name == "version" else Kind.MODEL.value)
        want[at : at + size] = value.to_bytes(size, "little")
        fields = dict.fromkeys(FIELDS[:4], 0) | {"kind": Kind.UPDATE}
        if name != "version":
            fields[name] = Kind.MODEL if name == "kind" else value
        assert Descriptor(**fields).pack() == bytes(want), name  # type: ignore[arg-type]


def test_values(header: dict[str, object]) -> None:
    assert {kind.name: kind.value for kind in Kind} == {
        kind.name: header[f"LIFL_{kind.name}"] for kind in Kind
    }
    assert header["LIFL_LANE"] == mirror.LANE
    assert header["LIFL_DESCRIPTOR_VERSION"] == mirror.VERSION
    assert header["key"] == 8


def test_header_has_no_other_kind() -> None:
    text = (Path(FOLDER) / "descriptor.h").read_text()
    enum = text[text.index("enum lifl_kind") : text.index("};", text.index("enum lifl_kind"))]
    assert enum.count("=") == len(Kind)


def test_unpack_leaves_out_what_it_does_not_know() -> None:
    good = Descriptor(mirror.SUMS_BIT | 7, 2, 3, mirror.lane(4), Kind.SUM)
    alien = bytearray(good.pack())
    alien[15] = mirror.VERSION + 1
    unknown = bytearray(good.pack())
    unknown[14] = 99
    assert mirror.unpack(good.pack() + alien + unknown + good.pack()) == [good, good]

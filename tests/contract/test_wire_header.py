"""ebpf/include/lifl_wire.h and lifl/wire.py say the same.

The header is compiled as a function would see it and as the kernel program sees it
(the two choose different integer types); a probe prints every constant and layout.
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ebpf.agent import loader
from lifl import wire

HEADER = Path(__file__).resolve().parents[2] / "ebpf/include/lifl_wire.h"
TEXT = HEADER.read_text()

STRUCTS = {
    "lifl_descriptor": wire.DESCRIPTOR,
    "lifl_identity": wire.IDENTITY,
    "lifl_endpoint": wire.ENDPOINT,
    "lifl_route": wire.ROUTE,
    "lifl_group": wire.GROUP,
    "lifl_counters": wire.COUNTERS,
}

CONSTANTS = {
    "LIFL_WIRE_VERSION": wire.WIRE_VERSION,
    "LIFL_PAGE_BYTES": wire.PAGE_BYTES,
    "LIFL_MAX_MEMBERS": wire.MAX_MEMBERS,
    "LIFL_DROP_REASONS": len(wire.DropReason),
    **{f"LIFL_OP_{o.name}": o.value for o in wire.Opcode},
    **{f"LIFL_KIND_{k.name}": k.value for k in wire.Kind},
    **{f"LIFL_ROUTE_{r.name}": r.value for r in wire.RouteType},
    **{f"LIFL_DROP_{d.name}": d.value for d in wire.DropReason},
}


def fields(name: str) -> list[str]:
    """Return the field names of a struct, as the header's text has them."""
    body = re.search(rf"struct {name} \{{(.*?)\}};", TEXT, re.DOTALL)
    assert body, f"the header has no struct {name}"
    return re.findall(r"^\s*lifl_u\d+ (\w+)(?:\[\w+\])?;", body[1], re.MULTILINE)


def test_the_tables_above_are_complete() -> None:
    assert set(re.findall(r"^struct (\w+) \{", TEXT, re.MULTILINE)) == set(STRUCTS)
    defined = set(re.findall(r"^#define (LIFL_\w+) \S", TEXT, re.MULTILINE))
    assert defined == set(CONSTANTS)


@pytest.fixture(scope="module", params=["function", "kernel"])
def probe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the lines that the compiled header prints."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed: apt install gcc"
    lines = [f'printf("{c} %llu\\n", (unsigned long long){c});' for c in CONSTANTS]
    for name in STRUCTS:
        lines.append(f'printf("sizeof {name} %zu\\n", sizeof(struct {name}));')
        lines += [
            f'printf("offsetof {name}.{f} %zu %zu\\n", offsetof(struct {name}, {f}),'
            f" sizeof(((struct {name} *)0)->{f}));"
            for f in fields(name)
        ]
    folder = tmp_path_factory.mktemp("probe")
    source = "#include <stddef.h>\n#include <stdio.h>\n"
    source += "#define __KERNEL__\n" if request.param == "kernel" else ""
    source += f'#include "{HEADER}"\nint main(void) {{ {" ".join(lines)} return 0; }}\n'
    (folder / "probe.c").write_text(source)
    command = [compiler, "-std=c11", "-Wall", "-Wextra", "-Werror", "-o", "probe", "probe.c"]
    subprocess.run(command, cwd=folder, check=True)
    out = subprocess.run([folder / "probe"], check=True, capture_output=True, text=True)
    return out.stdout.splitlines()


def test_every_constant_is_equal(probe: list[str]) -> None:
    seen = dict(line.rsplit(" ", 1) for line in probe if line.startswith("LIFL_"))
    assert {name: int(value) for name, value in seen.items()} == CONSTANTS


@pytest.mark.parametrize("name", STRUCTS)
def test_every_layout_is_equal(probe: list[str], name: str) -> None:
    layout = STRUCTS[name]
    assert f"sizeof {name} {layout.size}" in probe
    offset = 0
    names = fields(name)
    for field, size in zip(names, sizes(layout, len(names)), strict=True):
        assert f"offsetof {name}.{field} {offset} {size}" in probe
        offset += size
    assert offset == layout.size


def sizes(layout: struct.Struct, count: int) -> list[int]:
    """Return the bytes of each field that a format describes, an array being one field."""
    found: list[int] = []
    for repeat, code in re.findall(r"(\d*)([BHIQ])", layout.format):
        size = struct.calcsize("<" + code)
        found += [int(repeat) * size] if repeat else [size]
    assert len(found) == count
    return found


def test_the_kernels_maps_have_the_values_the_header_describes() -> None:
    by_map = {"identities": "lifl_identity", "endpoints": "lifl_endpoint", "routes": "lifl_route"}
    by_map |= {"groups": "lifl_group", "counters": "lifl_counters"}
    assert {m: loader._MAPS[m].value_bytes for m in by_map} == {
        m: STRUCTS[s].size for m, s in by_map.items()
    }

"""Two ways to load the kernel program, one outcome; and what is refused, with which words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ebpf.agent import libbpf, loader, pins
from ebpf.agent.kernel_switch import KernelSwitch
from ebpf.agent.loader import open_kernel
from lifl.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ONLY = "--bounding-set=-all,+bpf,+net_admin"
OPEN = """
import sys
from pathlib import Path
from ebpf.agent.loader import open_kernel
from lifl.errors import ConfigError
try:
    open_kernel(None, Path(sys.argv[1]) if sys.argv[1] else None).close()
except ConfigError as e:
    print(e)
"""


@pytest.fixture
def pin_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "bpf"
    pins.remove(tmp_path / "bpf")


def open_as(compiled: Path | None, *setpriv: str) -> str:
    """Open the kernel in a process with fewer rights; return what it complains of."""
    done = subprocess.run(
        ["setpriv", *setpriv, sys.executable, "-c", OPEN, str(compiled or "")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.ebpf
@pytest.mark.parametrize("ways", [("bcc", "object"), ("object", "bcc")], ids="-then-".join)
def test_what_one_way_pinned_the_other_adopts(
    ways: tuple[str, str], switch_by: Callable[[str], Callable[..., KernelSwitch]], pin_dir: Path
) -> None:
    first = switch_by(ways[0])(pin_dir)
    first.kernel.maps["endpoints"].update(7, b"12345678")
    first.close()
    second = switch_by(ways[1])(pin_dir)
    assert second.kernel.adopted
    assert second.kernel.maps["endpoints"].lookup(7) == [b"12345678"]
    assert list(second.kernel.maps["endpoints"]) == [7]
    second.close()


@pytest.mark.ebpf
@pytest.mark.parametrize("way", ["bcc", "object"])
def test_two_capabilities_are_enough(way: str, bpf_object: Path) -> None:
    assert open_as(bpf_object if way == "object" else None, ONLY) == ""


@pytest.mark.ebpf
def test_without_rights_it_says_which_are_needed(bpf_object: Path) -> None:
    said = open_as(bpf_object, "--bounding-set=-all")
    assert "CAP_BPF and CAP_NET_ADMIN" in said
    assert "not permitted" in said


@pytest.mark.ebpf
def test_maps_that_are_not_what_they_are_taken_for_are_refused(
    monkeypatch: pytest.MonkeyPatch, bpf_object: Path, pin_dir: Path
) -> None:
    open_kernel(pin_dir, bpf_object).close()
    other = loader._MAPS | {"routes": replace(loader._MAPS["routes"], value_bytes=16)}
    monkeypatch.setattr(loader, "_MAPS", other)
    for adopting in (pin_dir, None):
        with pytest.raises(ConfigError, match=r"'routes'.*value_bytes=8.*value_bytes=16"):
            open_kernel(adopting, bpf_object)


@pytest.mark.ebpf
def test_an_object_beside_the_source_is_found(
    monkeypatch: pytest.MonkeyPatch, bpf_object: Path
) -> None:
    monkeypatch.setattr(loader, "OBJECT", bpf_object)
    monkeypatch.setattr(loader.compiler, "build", None)
    open_kernel().close()


@pytest.mark.ebpf
def test_objects_that_cannot_be_used_are_refused(
    monkeypatch: pytest.MonkeyPatch, bpf_object: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        open_kernel(compiled=tmp_path / "none.o")
    broken = tmp_path / "broken.o"
    broken.write_bytes(b"\x7fELF" + loader.layout().encode())
    with pytest.raises(ConfigError, match="libbpf cannot read the object"):
        open_kernel(compiled=broken)
    with pytest.raises(ConfigError, match="has no others, other_program"):
        libbpf.load(bpf_object, loader.layout(), ["routes", "others"], "other_program")
    monkeypatch.setattr(loader, "layout", lambda: "0" * 16)
    with pytest.raises(ConfigError, match=r"other sources.*scripts/bpf-object"):
        open_kernel(compiled=bpf_object)


def test_without_libbpf_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(libbpf, "_NAMES", ("libnone.so.9",))
    (tmp_path / "x.o").write_text(loader.layout())
    with pytest.raises(ConfigError, match="libbpf1"):
        open_kernel(compiled=tmp_path / "x.o")

"""Finding any installed kernel headers and joining them into one tree."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from ebpf.agent import compiler, loader
from ebpf.agent.compiler import find_headers, join
from ebpf.agent.sockmap import possible_cpus
from lifl.errors import ConfigError


def tree(path: Path, *names: str) -> Path:
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(f"{path.name}:{name}")
    return path


COMMON = ("include/linux/kconfig.h", "arch/x86/include/asm/page.h")
GENERATED = ("include/generated/autoconf.h", "arch/x86/include/generated/asm/page.h")


def test_a_split_package_is_found_with_its_other_half(tmp_path: Path) -> None:
    common = tree(tmp_path / "usr/src/linux-headers-1.2-common", *COMMON)
    arch = tree(tmp_path / "usr/src/linux-headers-1.2-some", *GENERATED)
    (arch / "Makefile").write_text(f"# generated\ninclude {common}/Makefile\n")
    assert find_headers(tmp_path) == [arch, common]
    joined = tmp_path / "joined"
    join([arch, common], joined)
    for name in (*COMMON, *GENERATED):
        assert (joined / name).read_text().endswith(name)


def test_the_running_kernels_headers_come_first_then_the_newest(tmp_path: Path) -> None:
    trees = {
        version: tree(tmp_path / f"usr/src/linux-headers-{version}-x", *COMMON, *GENERATED)
        for version in ("9.9.0", "10.2.0", "10.1.9")
    }
    assert find_headers(tmp_path) == [trees["10.2.0"]]
    running = tmp_path / "lib/modules" / platform.release()
    running.mkdir(parents=True)
    (running / "build").symlink_to(trees["9.9.0"])
    assert find_headers(tmp_path) == [running / "build"]


def test_a_tree_with_half_missing_is_passed_over(tmp_path: Path) -> None:
    tree(tmp_path / "usr/src/linux-headers-9-half", *GENERATED)
    (tmp_path / "lib/modules/9").mkdir(parents=True)
    (tmp_path / "lib/modules/9/build").symlink_to("/nowhere")
    with pytest.raises(ConfigError, match="apt install"):
        find_headers(tmp_path)


def test_of_two_files_with_one_name_the_first_counts(tmp_path: Path) -> None:
    a, b = tree(tmp_path / "a", "same", "only-a"), tree(tmp_path / "b", "same", "only-b")
    join([a, b], tmp_path / "joined")
    assert sorted(p.name for p in (tmp_path / "joined").iterdir()) == ["only-a", "only-b", "same"]
    assert (tmp_path / "joined/same").read_text() == "a:same"


def test_bccs_variable_is_as_it_was_after_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "BCC_KERNEL_SOURCE"
    source = tree(tmp_path / "k", "include/linux/kconfig.h")
    monkeypatch.setenv(name, "/elsewhere")
    with compiler.kernel_source([source]):
        seen = Path(os.environ[name])
        assert (seen / "include/linux/kconfig.h").is_file()
    assert not seen.exists()
    assert os.environ[name] == "/elsewhere"


def test_without_bcc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bcc", None)
    with pytest.raises(ConfigError, match="python3-bpfcc"):
        loader.open_kernel()


@pytest.mark.parametrize(("text", "cpus"), [("0\n", 1), ("0-3\n", 4), ("0-1,4,6-7\n", 5)])
def test_possible_cpus_are_counted(tmp_path: Path, text: str, cpus: int) -> None:
    path = tmp_path / "possible"
    path.write_text(text)
    assert possible_cpus(path) == cpus

"""Version files, and a submitter's model becoming version 0."""

from __future__ import annotations

import io
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save

from functions.coordinator.checkpoint import Checkpoints, Draft
from functions.coordinator.initial import receive
from lifl.errors import ConfigError, UpdateError


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, "digits")


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(p.name for p in checkpoints.directory.iterdir())


def write(draft: Draft, document: bytes = b"abc") -> str:
    name, writing = draft.write_model(memoryview(document))
    with writing:
        pass
    return name


def keep(checkpoints: Checkpoints, version: int, document: bytes = b"abc") -> Path:
    draft = checkpoints.draft(version)
    name = write(draft, document)
    draft.keep()
    return checkpoints.path(name)


def test_a_version_is_there_only_when_it_was_kept(checkpoints):
    draft = checkpoints.draft(7)
    model = write(draft, b"x" * 1000)
    file, vector = draft.map_vector("m", 5)
    vector[:] = range(5)
    assert all(n.endswith(".part") for n in names(checkpoints))
    draft.keep()
    assert names(checkpoints) == ["v000007.m.f32", "v000007.safetensors"]
    target = bytearray(1000)
    checkpoints.read_model(model, memoryview(target))
    assert target == b"x" * 1000
    loaded = checkpoints.vectors({"m": file}, 5)["m"]
    np.testing.assert_array_equal(loaded, np.arange(5, dtype=np.float32))
    assert not loaded.flags.writeable


def test_a_discarded_version_leaves_nothing(checkpoints):
    draft = checkpoints.draft(7)
    write(draft)
    draft.map_vector("v", 10)
    draft.discard()
    assert names(checkpoints) == []


def test_discarding_after_keeping_keeps(checkpoints):
    draft = checkpoints.draft(1)
    write(draft)
    draft.keep()
    draft.discard()
    assert names(checkpoints) == ["v000001.safetensors"]


def test_no_descriptor_is_left_open(checkpoints, no_leaks):
    for version in range(3):
        draft = checkpoints.draft(version)
        write(draft)
        (draft.keep if version else draft.discard)()


def test_two_who_make_the_same_version_do_not_meet(checkpoints, tmp_path):
    """A coordinator that was superseded, and does not know yet, and its successor."""
    drafts = [Checkpoints(tmp_path, "digits", writer).draft(1) for writer in ("old", "new")]
    made = [write(d, c) for d, c in zip(drafts, (b"abc", b"xyz"), strict=True)]
    drafts[1].keep()
    drafts[0].keep()
    assert checkpoints.path(made[1]).read_bytes() == b"xyz"
    abandoned = Checkpoints(tmp_path, "digits", "dead").draft(1)
    write(abandoned)
    checkpoints.prune(1)
    assert len(names(checkpoints)) == 3
    checkpoints.prune(2)
    assert names(checkpoints) == ["spare.part"]


def test_prune_keeps_what_it_is_told_and_strangers(checkpoints):
    for version in range(4):
        draft = checkpoints.draft(version)
        write(draft)
        draft.map_vector("m", 2)
        draft.keep()
    checkpoints.path("notes.txt").write_text("mine")
    checkpoints.prune(2)
    assert names(checkpoints) == [
        "notes.txt",
        "spare.part",
        "v000002.m.f32",
        "v000002.safetensors",
        "v000003.m.f32",
        "v000003.safetensors",
    ]


def test_the_spare_is_written_over_by_the_next_version(checkpoints):
    first = keep(checkpoints, 1, b"one").stat().st_ino
    keep(checkpoints, 2, b"two")
    checkpoints.prune(2)
    for version, document in ((3, b"3"), (4, b"four" * 1000)):
        path = keep(checkpoints, version, document)
        assert path.read_bytes() == document
    assert checkpoints.path("v000003.safetensors").stat().st_ino == first
    assert path.stat().st_ino != first
    assert "spare.part" not in names(checkpoints)


def test_who_reads_an_old_version_goes_on_reading_it(checkpoints, no_leaks):
    """Sent to a gateway far away it may be open for minutes."""
    with keep(checkpoints, 1, b"one").open("rb") as reader:
        checkpoints.prune(2)
        assert keep(checkpoints, 2, b"two").read_bytes() == b"two"
        assert reader.read() == b"one"
    with mapped(keep(checkpoints, 3, b"three")) as old:
        checkpoints.prune(4)
        keep(checkpoints, 4, b"four!")
        assert old[:] == b"three"


def mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as f:
        return mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)


def test_a_spare_of_somebody_who_is_gone_is_removed(tmp_path):
    keep(dead := Checkpoints(tmp_path, "digits", "dead"), 1)
    dead.prune(2)
    assert names(dead) == ["spare-dead.part"]
    present = Checkpoints(tmp_path, "digits", "present")
    keep(present, 2)
    present.prune(2)
    assert names(present) == ["v000002-present.safetensors"]


def test_a_version_that_is_discarded_takes_its_spare_along(checkpoints):
    keep(checkpoints, 1)
    checkpoints.prune(2)
    draft = checkpoints.draft(2)
    write(draft)
    draft.discard()
    assert names(checkpoints) == []


@pytest.mark.parametrize("content", [None, b"ab", b"abcd"])
def test_missing_and_damaged_files_are_said(checkpoints, content):
    if content is not None:
        checkpoints.path("v000001.safetensors").write_bytes(content)
        checkpoints.path("v000001.m.f32").write_bytes(content)
    with pytest.raises(ConfigError, match="checkpoint"):
        checkpoints.read_model("v000001.safetensors", memoryview(bytearray(3)))
    with pytest.raises(ConfigError, match="checkpoint"):
        checkpoints.vectors({"m": "v000001.m.f32"}, 5)


def test_files_are_their_owners_alone(checkpoints):
    draft = checkpoints.draft(1)
    write(draft)
    draft.keep()
    assert checkpoints.path("v000001.safetensors").stat().st_mode & 0o077 == 0
    assert checkpoints.directory.stat().st_mode & 0o077 == 0


# -- the initial model --------------------------------------------------------


def take(checkpoints: Checkpoints, document: bytes, length: int | None = None, step: int = 7):
    stream = io.BytesIO(document)
    return receive(
        checkpoints,
        len(document) if length is None else length,
        lambda n: stream.read(min(n, step)),
    )


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "b.weight": rng.standard_normal((3, 5)).astype(np.float32),
        "a.weight": rng.standard_normal(11).astype(np.float32),
        "bn.num_batches_tracked": np.array(41, np.int64),
    }


def test_a_canonical_document_is_kept_byte_for_byte(checkpoints, arrays):
    document = save(arrays)
    model = take(checkpoints, document)
    assert checkpoints.path(model.file).read_bytes() == document
    assert model.schema.document_bytes == len(document)
    assert names(checkpoints) == ["v000000.safetensors"]


def test_half_precision_becomes_float32(checkpoints, arrays):
    mixed = {
        "f16": arrays["a.weight"].astype(np.float16),
        "bf16": arrays["b.weight"].astype(ml_dtypes.bfloat16),
        "f32": arrays["a.weight"],
        "count": np.arange(3, dtype=np.int32),
    }
    model = take(checkpoints, save(mixed))
    loaded = load_file(checkpoints.path(model.file))
    for name in ("f16", "bf16", "f32"):
        assert loaded[name].dtype == np.float32
        np.testing.assert_array_equal(loaded[name], mixed[name].astype(np.float32))
    np.testing.assert_array_equal(loaded["count"], mixed["count"])


@pytest.fixture
def clean(checkpoints: Checkpoints) -> Iterator[None]:
    yield
    assert names(checkpoints) == []


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("cut", [0, 3, 8, 40, -1])
def test_a_body_that_ends_early_is_refused(checkpoints, arrays, cut):
    document = save(arrays)
    with pytest.raises(UpdateError) as e:
        take(checkpoints, document[:cut], len(document))
    assert e.value.code == "truncated"


@pytest.mark.usefixtures("clean")
def test_a_model_that_is_not_finite_is_refused(checkpoints, arrays):
    arrays["a.weight"][3] = np.nan
    with pytest.raises(UpdateError) as e:
        take(checkpoints, save(arrays))
    assert (e.value.code, e.value.where) == ("not-finite", "a.weight[3]")


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    "document", [b"", b"{}", b"\xff" * 64, os.urandom(200), save({"n": np.arange(3)})]
)
def test_anything_else_is_refused(checkpoints, document):
    with pytest.raises((UpdateError, ConfigError)):
        take(checkpoints, document)


def test_a_disk_without_room_is_noticed_before_writing(checkpoints):
    with pytest.raises(OSError, match=r"space|large"):
        checkpoints.draft(1).map_vector("m", 1 << 50)

"""What a job's updates look like: names, dtypes, shapes, and the canonical layout.

Why: gateway, aggregators, coordinator and clients agree on one order of
tensors, so that the floats of every update, partial and model are one float32
vector at one place. It must not judge a stranger's bytes (see ``header``).

Canonical layout, in bytes from the document's start::

    [8: header length][JSON header, space padded][integers][float32 tensors]

Integers come first, then floats, each sorted as the stock safetensors library
does; with 64-bit integers (BatchNorm's ``num_batches_tracked``) or none, a
float32 document of that library is canonical byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lifl.errors import ConfigError, UpdateError
from lifl.update.dtypes import DTYPES, dtype_of
from lifl.update.header import Header, header_bytes, parse_header

ALIGNMENT = 8


class TensorSpec(NamedTuple):
    """One tensor of a schema: its name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Return the number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Return the bytes of its data."""
        return self.elements * DTYPES[self.dtype].itemsize

    @property
    def is_float(self) -> bool:
        """Return whether it is summed (True) or merged by maximum (False)."""
        return DTYPES[self.dtype].is_float


class Schema:
    """The tensors of a job's model, in canonical order.

    Float tensors are float32 here whatever precision the initial model or an
    update has: models are kept, summed and published in float32.
    """

    def __init__(self, tensors: Iterable[TensorSpec]) -> None:
        """Order and keep ``tensors``.

        Raises
        ------
        ConfigError
            if there is no float tensor, a name twice, or a dtype that updates
            cannot hold.
        """
        specs = []
        for name, dtype, shape in tensors:
            if dtype not in DTYPES:
                raise ConfigError(
                    f"tensor {name!r} is {dtype}; models may hold {', '.join(DTYPES)}"
                    " (cast float64 to float32)"
                )
            if any(n < 0 for n in shape):
                raise ConfigError(f"tensor {name!r} has the negative shape {list(shape)}")
            specs.append(TensorSpec(name, "F32" if DTYPES[dtype].is_float else dtype, tuple(shape)))
        if len({s.name for s in specs}) != len(specs):
            raise ConfigError("two tensors of the model have the same name")
        if not any(s.is_float and s.elements for s in specs):
            raise ConfigError("the model has no float tensor, so there is nothing to aggregate")
        self.tensors = tuple(
            sorted(
                specs,
                key=lambda s: (s.is_float, DTYPES[s.dtype].rank, s.name.encode()),
            )
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.tensors == other.tensors

    def __hash__(self) -> int:
        return hash(self.tensors)

    def __repr__(self) -> str:
        return f"Schema({len(self.tensors)} tensors, {self.float_elements} float elements)"

    @cached_property
    def integers(self) -> tuple[TensorSpec, ...]:
        """Return the integer and boolean tensors, in canonical order."""
        return tuple(s for s in self.tensors if not s.is_float)

    @cached_property
    def floats(self) -> tuple[TensorSpec, ...]:
        """Return the float tensors, in canonical order."""
        return tuple(s for s in self.tensors if s.is_float)

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        """Return the tensors by name."""
        return {s.name: s for s in self.tensors}

    @cached_property
    def int_bytes(self) -> int:
        """Return the size of the integer section, bytes."""
        return sum(s.nbytes for s in self.integers)

    @cached_property
    def float_elements(self) -> int:
        """Return the number of float elements."""
        return sum(s.elements for s in self.floats)

    @property
    def float_bytes(self) -> int:
        """Return the size of the float section as float32, bytes."""
        return self.float_elements * 4

    @cached_property
    def offsets(self) -> dict[str, int]:
        """Return each tensor's place: an element of the float vector or a byte of the integers."""
        places, element, byte = {}, 0, 0
        for s in self.tensors:
            if s.is_float:
                places[s.name] = element
                element += s.elements
            else:
                places[s.name] = byte
                byte += s.nbytes
        return places

    @cached_property
    def _header(self) -> bytes:
        return encode_header(self.tensors)

    def canonical_header(self) -> bytes:
        """Return the canonical document's header: length, JSON and padding.

        The integer section starts right behind it, the floats ``int_bytes``
        later, at a multiple of 8 bytes from the document's start.
        """
        return self._header

    @property
    def int_start(self) -> int:
        """Return where the integer section starts in a canonical document, bytes."""
        return len(self._header)

    @property
    def float_start(self) -> int:
        """Return where the floats start in a canonical document, bytes."""
        return len(self._header) + self.int_bytes

    @property
    def document_bytes(self) -> int:
        """Return the size of a canonical document, bytes."""
        return self.float_start + self.float_bytes

    def to_json(self) -> dict[str, Any]:
        """Return plain data: ``{"tensors": [[name, dtype, shape], ...]}``."""
        return {"tensors": [[s.name, s.dtype, list(s.shape)] for s in self.tensors]}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Schema:
        """Read what :meth:`to_json` wrote; raises ConfigError."""
        try:
            return cls(
                TensorSpec(str(name), str(dtype), tuple(int(n) for n in shape))
                for name, dtype, shape in raw["tensors"]
            )
        except (KeyError, TypeError, ValueError) as e:
            raise ConfigError(f"not a schema: {e!r}") from e

    @classmethod
    def from_header(cls, header: Header) -> Schema:
        """Return the schema of a parsed document; raises ConfigError."""
        return cls(TensorSpec(t.name, t.dtype, t.shape) for t in header.tensors)

    @classmethod
    def from_file(cls, path: Path) -> Schema:
        """Return the schema of a safetensors file, reading only its header.

        Raises
        ------
        ConfigError
            if the file is not a safetensors document that updates can be like.
        """
        try:
            with path.open("rb") as f:
                size = path.stat().st_size
                prefix = f.read(8)
                raw = prefix + f.read(header_bytes(prefix, size) - len(prefix))
            return cls.from_header(parse_header(raw, size))
        except OSError as e:
            raise ConfigError(f"cannot read the model {path}: {e.strerror}") from e
        except UpdateError as e:
            raise ConfigError(f"{path} is not a usable safetensors file: {e.detail}") from e

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray[Any, Any]]) -> Schema:
        """Return the schema of a dict of arrays; raises ConfigError."""
        specs = []
        for name, array in arrays.items():
            dtype = dtype_of(array)
            specs.append(TensorSpec(name, dtype.name if dtype else str(array.dtype), array.shape))
        return cls(specs)


def encode_header(tensors: Iterable[TensorSpec]) -> bytes:
    """Return the header of a document whose data are ``tensors`` in this order.

    Written as the stock library writes it (compact UTF-8 JSON), space padded
    so that the first float starts at a multiple of 8 bytes.
    """
    entries: dict[str, dict[str, Any]] = {}
    end = first_float = 0
    for s in tensors:
        start, end = end, end + s.nbytes
        if not s.is_float:
            first_float = end
        entries[s.name] = {
            "dtype": s.dtype,
            "shape": list(s.shape),
            "data_offsets": [start, end],
        }
    raw = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    raw += b" " * (-(len(raw) + first_float) % ALIGNMENT)
    return len(raw).to_bytes(8, "little") + raw

"""What the packaging tests share: the repository's descriptions, read as their tools read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


@pytest.fixture(scope="session")
def repo() -> Path:
    """Return the repository's root."""
    return REPO


@pytest.fixture(scope="session")
def stack() -> dict[str, Any]:
    """Return stack.yml as faas-cli reads it when no variable is set."""
    text = _VARIABLE.sub(r"\2", (REPO / "stack.yml").read_text())
    assert "${" not in text, "every variable of stack.yml needs a default"
    found: dict[str, Any] = yaml.safe_load(text)
    return found


@pytest.fixture(scope="session")
def objects() -> dict[str, list[dict[str, Any]]]:
    """Return the Kubernetes objects of each kustomization, in the order of its files."""
    return {
        folder: [
            found
            for name in yaml.safe_load((REPO / folder / "kustomization.yaml").read_text())[
                "resources"
            ]
            for found in yaml.safe_load_all((REPO / folder / name).read_text())
        ]
        for folder in ("knative", "ebpf")
    }

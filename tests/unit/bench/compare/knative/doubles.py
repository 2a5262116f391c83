"""A cluster of a dictionary: what kubectl would have been asked, and what it would have said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.compare.knative.kube import ClusterError, Kube


class FakeKube(Kube):
    """Answers ``get`` from ``objects`` by its arguments; keeps what was applied and run."""

    def __init__(self, objects: Mapping[tuple[str, ...], Any] | None = None) -> None:
        self.objects: dict[tuple[str, ...], Any] = dict(objects or {})
        self.applied: list[Mapping[str, Any]] = []
        self.ran: list[tuple[str, ...]] = []
        self.apis = {"serving.knative.dev/v1", "eventing.knative.dev/v1", "lifl.dev/v1alpha1"}
        self.pages: dict[str, list[str]] = {}

    def run(self, *arguments: str, given: str = "", seconds: float = 240.0) -> str:
        self.ran.append(arguments)
        if arguments[0] == "api-versions":
            return "\n".join(self.apis)
        return str(self.objects.get(arguments, ""))

    def get(self, *arguments: str) -> dict[str, Any]:
        if arguments not in self.objects:
            raise ClusterError(f"{arguments} not found")
        found: dict[str, Any] = self.objects[arguments]
        return found

    def apply(self, objects: Sequence[Mapping[str, Any]]) -> None:
        self.applied += objects

    def raw(self, path: str) -> str:
        pages = self.pages[path]
        return pages.pop(0) if len(pages) > 1 else pages[0]

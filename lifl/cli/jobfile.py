"""Reading a job file and the initial model it names.

Why: the submitter's machine has the files; the platform gets their content. What
a job may ask for is checked by the coordinator alone, which says what is wrong
and where. It must not send anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import yaml

from lifl.client.http import HttpClient, raise_for_status
from lifl.errors import ConfigError

HTTP_SCHEMES = ("http://", "https://")


def load(path: Path) -> dict[str, Any]:
    """Return a job file's document.

    Raises
    ------
    ConfigError
        if it cannot be read or is not one YAML mapping.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as e:
        raise ConfigError(f"{path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not YAML: {e}") from e
    if not isinstance(document, dict):
        raise ConfigError(f"{path} is not a job file: it holds no mapping")
    return document


def initial_model(document: dict[str, Any], folder: Path) -> bytes:
    """Return the bytes of ``spec.model``: ``path`` relative to ``folder``, or ``url``.

    Raises
    ------
    ConfigError
        if the document names no model or the file cannot be read.
    """
    spec = document.get("spec")
    place = spec.get("model") if isinstance(spec, dict) else None
    if isinstance(place, dict) and "configMap" in place:
        raise ConfigError(
            "spec.model.configMap is for a cluster: kubectl apply this file there, "
            "or name a path or url"
        )
    if not isinstance(place, dict) or not {"path", "url"} & place.keys():
        raise ConfigError("spec.model needs a path or a url: where is the initial model?")
    if "url" in place:
        return _fetch(str(place["url"]))
    path = folder / str(place["path"])
    try:
        return path.read_bytes()
    except OSError as e:
        raise ConfigError(f"spec.model.path: {path}: {e.strerror}") from e


def _fetch(url: str) -> bytes:
    if not url.startswith(HTTP_SCHEMES):
        raise ConfigError(f"spec.model.url: {url!r} is neither http:// nor https://")
    parts = urlsplit(url)
    client = HttpClient(f"{parts.scheme}://{parts.netloc}", timeout=60.0)
    try:
        response = client.request("GET", urlunsplit(("", "", parts.path, parts.query, "")) or "/")
        raise_for_status(response)
        return response.data
    finally:
        client.close()

"""Payloads that were written once, with what they decode to. They are never regenerated: `write.py` refuses to overwrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
MANIFEST = FOLDER / "manifest.json"


def manifest() -> dict[str, dict[str, Any]]:
    """By name: draft, sha256 of the payload, and for each member its dtype number, dims, file and sha256 of its values."""
    found: dict[str, dict[str, Any]] = json.loads(MANIFEST.read_text())
    return found


def names() -> list[str]:
    """All vectors, by name."""
    return list(manifest())


def payload(name: str) -> bytes:
    """The bytes of a vector."""
    return (FOLDER / f"{name}.bin").read_bytes()


def values(name: str) -> list[NDArray]:
    """What its members decode to; bfloat16 as bits."""
    return [np.load(FOLDER / member["file"]) for member in manifest()[name]["members"]]

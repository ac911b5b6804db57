"""Which onnx-compress this is."""

from __future__ import annotations

from importlib import metadata


def package_version() -> str:
    """The version of the installed package; `0+checkout` where it runs from a checkout that is not installed."""
    try:
        return metadata.version("onnx-compress")
    except metadata.PackageNotFoundError:
        return "0+checkout"

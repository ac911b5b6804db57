"""Which onnx-compress this is."""

from __future__ import annotations

from importlib import metadata

INSTALL = "pip install onnx-compress"


def package_version() -> str:
    """The version of the installed package; `0+checkout` where it runs from a checkout that is not installed."""
    try:
        return metadata.version("onnx-compress")
    except metadata.PackageNotFoundError:
        return "0+checkout"


def how_to_install() -> str:
    """The command that gives a reader of a compressed file what it takes to run it; with the version, where that is a released one."""
    version = package_version()
    return INSTALL if "+" in version else f"{INSTALL}=={version}"

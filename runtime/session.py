"""`session`: an onnxruntime session with the operator library registered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from .errors import UnsupportedVersionError
from .library import library_path

FORMAT_KEY = "onnx_compress.format"
"""The metadata_props key that names the payload format of a compressed model."""

FORMAT_VERSION = "0.1"
"""Version 0, draft 1: what this package reads."""

CHECKSUMS_KEY = "onnx_compress.verify_checksums"
"""The session config entry that makes the operators verify every checksum when they are created."""


def session(
    path: str | Path,
    options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    verify_checksums: bool = False,
) -> onnxruntime.InferenceSession:
    """A session that runs the compressed (or any other) model at `path`.

    `options` are yours; the library is registered in them unless it already is.
    Raises UnsupportedVersionError where another version wrote the model.
    """
    options = onnxruntime.SessionOptions() if options is None else options
    if verify_checksums:
        options.add_session_config_entry(CHECKSUMS_KEY, "1")
    _register(options)
    try:
        made = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        if "this library reads draft" in str(error):
            raise UnsupportedVersionError(f"{path}: {error}") from error
        raise
    written = made.get_modelmeta().custom_metadata_map.get(FORMAT_KEY, FORMAT_VERSION)
    if written != FORMAT_VERSION:
        raise UnsupportedVersionError(
            f"{path} is in payload format {written}, this onnx-compress reads {FORMAT_VERSION}: "
            "install the version that wrote it, or compress the original again"
        )
    return made


def _register(options: onnxruntime.SessionOptions) -> None:
    try:
        options.register_custom_ops_library(library_path())
    except Exception as error:
        # Options that were used for one session serve for the next.
        if "already" not in str(error):
            raise

"""`session`: an onnxruntime session with the operator library registered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from .errors import UnsupportedVersionError
from .library import library_path

FORMAT_KEY = "onnx_compress.format"
"""The metadata_props key that names the payload format of a compressed model."""

FORMAT_VERSION = "0.3"
"""Version 0, draft 3: what this package reads."""

CHECKSUMS_KEY = "onnx_compress.verify_checksums"
"""The session config entry that makes the operators verify every checksum when they are created."""

REGISTERED_KEY = "onnx_compress.registered"
"""The session config entry by which `session` knows options that it has used before."""


def session(
    path: str | Path,
    options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    verify_checksums: bool = False,
) -> onnxruntime.InferenceSession:
    """A session that runs the compressed (or any other) model at `path`.

    `options` are yours; the library is registered in them unless an earlier call of this function did.
    Raises UnsupportedVersionError where another version wrote the model.
    """
    options = onnxruntime.SessionOptions() if options is None else options
    if verify_checksums and not _has_entry(options, CHECKSUMS_KEY):
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
    """Registers the library once: options that serve a second session fail if it is done again ("Domain already set in registry")."""
    if not _has_entry(options, REGISTERED_KEY):
        options.register_custom_ops_library(library_path())
        options.add_session_config_entry(REGISTERED_KEY, "1")


def _has_entry(options: onnxruntime.SessionOptions, key: str) -> bool:
    try:
        options.get_session_config_entry(key)
    except RuntimeError:
        return False
    return True

"""`session`: an onnxruntime session with the operator library registered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from .errors import UnsupportedVersionError
from .header import FORMAT_KEY, FORMAT_VERSION, LOSSLESS_VERSION
from .heap import give_back
from .library import library_path

CHECKSUMS_KEY = "onnx_compress.verify_checksums"
"""The session config entry that makes the operators verify every checksum when they are created: 1."""

INSTRUCTION_SET_KEY = "onnx_compress.instruction_set"
"""The session config entry that names the kernels to use, for tests: avx512, avx2, sse4, neon or baseline."""

RESIDENCY_KEY = "onnx_compress.residency"
"""The session config entry that says where weights are: tile or dense."""

REGISTERED_KEY = "onnx_compress.registered"
"""The session config entry by which `session` knows options that it has used before."""


def session(
    path: str | Path,
    options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    *,
    verify_checksums: bool = False,
    instruction_set: str | None = None,
    residency: str | None = None,
) -> onnxruntime.InferenceSession:
    """A session that runs the compressed (or any other) model at `path`.

    `options` are yours; the library is registered in them unless an earlier call of this function did. The others are session config
    entries, which the library sees only if they were there when it was registered:
    `verify_checksums`: compare every checksum of the weights when the session is created.
    `instruction_set`: the kernels to use, "avx512", "avx2", "sse4", "neon" or "baseline"; else the fastest that the machine has. Weights decode to the
    same bits with all of them.
    `residency`: "tile" (default) decodes weights tile by tile whenever they are used; "dense" decodes them once, when the session is
    created, and keeps them as floats: more memory than the original model's, for its speed. The weights are equal to the bit, outputs but for the order of sums.

    Raises UnsupportedVersionError where another version wrote the model, ValueError where an entry comes too late, and onnxruntime's own
    exception where the machine lacks the instruction set.
    """
    options = onnxruntime.SessionOptions() if options is None else options
    _register(options, {CHECKSUMS_KEY: "1" if verify_checksums else None, INSTRUCTION_SET_KEY: instruction_set, RESIDENCY_KEY: residency})
    try:
        made = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:
        if "this library reads draft" in str(error):
            raise UnsupportedVersionError(f"{path}: {error}") from error
        raise
    give_back()  # folded weights leave 100-200 bytes a value behind while a session is created
    written = made.get_modelmeta().custom_metadata_map.get(FORMAT_KEY, FORMAT_VERSION)
    if written not in (FORMAT_VERSION, LOSSLESS_VERSION):
        raise UnsupportedVersionError(
            f"{path} is in payload format {written}, this onnx-compress reads {FORMAT_VERSION}: "
            "install the version that wrote it, or compress the original again"
        )
    return made


def _register(options: onnxruntime.SessionOptions, entries: Mapping[str, str | None]) -> None:
    """Registers the library once: options that serve a second session fail if it is done again ("Domain already set in registry")."""
    wanted = {key: value for key, value in entries.items() if value is not None}
    if _entry(options, REGISTERED_KEY) is None:
        for key, value in wanted.items():
            options.add_session_config_entry(key, value)
        options.register_custom_ops_library(library_path())
        options.add_session_config_entry(REGISTERED_KEY, "1")
    for key, value in wanted.items():
        if (found := _entry(options, key)) != value:
            raise ValueError(f"{key} = {value} comes too late: the library is registered in these options, with {found}; make new options")


def _entry(options: onnxruntime.SessionOptions, key: str) -> str | None:
    """The value of a session config entry; None where there is none."""
    try:
        value: str = options.get_session_config_entry(key)
    except RuntimeError:
        return None
    return value

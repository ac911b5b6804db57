"""The operator library: where it is, and its decoder through ctypes."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import CorruptionError, FormatError, TruncatedError, UnsupportedVersionError

_HERE = Path(__file__).resolve().parent
_NAME = {"win32": "onnx_compress.dll", "darwin": "libonnx_compress.dylib"}.get(sys.platform, "libonnx_compress.so")
_ERRORS = {error.number: error for error in (FormatError, TruncatedError, CorruptionError, UnsupportedVersionError)}
_MESSAGE_BYTES = 512

DECODE_BUFFER_BYTES = 4 * 65536
"""What each thread that decodes keeps for its tile: TILE_FLOATS of cpp/decode.h."""


class LibraryNotFoundError(FileNotFoundError):
    """The operator library is not where it should be."""


def library_path() -> str:
    """The path of the operator library, for `SessionOptions.register_custom_ops_library`.

    Looks beside this package (where an installed wheel has it), then for the newest build in the checkout, then in site-packages.
    Raises LibraryNotFoundError.
    """
    places = [_HERE / _NAME, *_built_places(), *_installed_places()]
    for place in places:
        if place.is_file():
            return str(place)
    raise LibraryNotFoundError(
        f"the operator library {_NAME} is neither in {_HERE} nor in a build folder of the checkout: "
        "install the package again (pip install onnx-compress), or in a checkout build it with "
        "`cmake -S runtime/cpp -B build/dev -G Ninja && ninja -C build/dev`"
    )


def _built_places() -> list[Path]:
    """The library in the build folders of a checkout, newest first."""
    return sorted((_HERE.parent / "build").glob(f"*/{_NAME}"), key=lambda path: path.stat().st_mtime, reverse=True)


def _installed_places() -> list[Path]:
    """Where an editable installation puts the library: site-packages has the package's folder, but the Python files are elsewhere."""
    return [Path(folder) / "onnx_compress" / "runtime" / _NAME for folder in sys.path]


@cache
def _library(path: str) -> ctypes.CDLL:
    library = ctypes.CDLL(path)
    library.onnx_compress_version.restype = ctypes.c_char_p
    address, size, number, text = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint32, ctypes.c_char_p
    library.onnx_compress_decode.argtypes = [address, size, number, ctypes.c_int, text, number, number, address, size, text, size]
    return library


@cache
def _loaded() -> ctypes.CDLL:
    """The library, looked for once."""
    return _library(library_path())


def library_version() -> str:
    """The version that the library was built as."""
    version: bytes = _loaded().onnx_compress_version()
    return version.decode()


def decode(
    payload: bytes | NDArray[np.uint8], out: NDArray, member: int = 0, verify_checksums: bool = True, instruction_set: str = "", part: tuple[int, int] = (0, 1)
) -> NDArray:
    """Decodes a member of `payload` into `out` and gives `out`.

    `out` has the weight's dims and dtype (bfloat16 as uint16 bits; 4-bit integers one a byte) and is C-contiguous.
    `instruction_set` names the decoder ("avx512", "avx2", "sse4", "neon", "baseline"), empty: the fastest of this machine; all give the same bits.
    `part` (i, n): only the chunks from i * chunks // n on, before (i + 1) * chunks // n, are decoded, each to its place, so that n threads can share a weight; of the others
    nothing is read where checksums are not verified.
    Raises FormatError, TruncatedError, CorruptionError, UnsupportedVersionError; ValueError for arguments that do not fit.
    """
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out must be C-contiguous and writeable")
    data = np.frombuffer(payload, np.uint8) if isinstance(payload, bytes) else np.ascontiguousarray(payload, np.uint8)
    message = ctypes.create_string_buffer(_MESSAGE_BYTES)
    number = _loaded().onnx_compress_decode(
        data.ctypes.data,
        data.nbytes,
        member,
        int(verify_checksums),
        instruction_set.encode(),
        *part,
        out.ctypes.data,
        out.nbytes,
        message,
        _MESSAGE_BYTES,
    )
    if number:
        raise _ERRORS.get(number, ValueError)(message.value.decode(errors="replace"))
    return out

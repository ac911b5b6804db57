"""What comes of a payload, by the reader and by the library."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from onnx_compress.runtime.errors import FormatError
from onnx_compress.runtime.evaluate import member_array
from onnx_compress.runtime.reader import read, read_header

LIMIT_SECONDS = 60.0

HEADER_BYTES = 4 << 20
"""What parsing a header of less than a kilobyte may allocate."""


Outcome = tuple[int, list[NDArray]]


def outcome(data: bytes) -> Outcome:
    """(0, tensors) or (error number, [])."""
    try:
        payload = read(np.frombuffer(data, np.uint8))
    except FormatError as error:
        return error.number, []
    return 0, [member_array(member) for member in payload.members]


def templates(data: bytes) -> list[NDArray]:
    """An array like the first member's tensor, where the header is legal, else any."""
    try:
        member = read_header(np.frombuffer(data, np.uint8)).payload.members[0]
    except FormatError:
        return [np.zeros(1, np.uint8)]
    return [np.zeros(member.view.dims, {1: "<f4", 10: "<f2", 3: "i1", 2: "u1", 21: "u1", 22: "i1"}.get(member.dtype, "<u2"))]

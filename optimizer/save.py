"""Writes a compressed model: inline, or its payloads in one external file beside it, which onnxruntime maps instead of copying.

The external file begins with an identity, the SHA-256 of the payloads, that the model's metadata repeats: a file of another model is recognised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from .emit import Emitted
from .errors import CompressError

IDENTITY_KEY = "onnx_compress.identity"
MAGIC = b"onnx-compress\0\0\0"
IDENTITY_BYTES = 48
"""Magic (16) and SHA-256 (32)."""

ALIGNMENT = 64
"""Payloads begin at multiples of a cache line."""

EXTERNAL_FROM_BYTES = 64 << 20
PROTOBUF_LIMIT_BYTES = 2_000_000_000
"""Protobuf's own limit is 2^31 - 1; what is not counted here (the graph) fits the difference."""

KEPT_INLINE_BYTES = 1024
"""Tensors below this stay in the .onnx even where the others are external."""


def is_external(emitted: Emitted, wanted: bool | None) -> bool:
    """Whether payloads go into an external file. Raises CompressError where inline is impossible."""
    return goes_external(sum(value.const_value.nbytes for value in emitted.model.graph.initializers.values() if value.const_value is not None), wanted)


def goes_external(total: int, wanted: bool | None) -> bool:
    """Whether `total` bytes of weights go into an external file: as wanted, else from 64 MB on. Raises CompressError where inline is impossible."""
    if wanted is None:
        return total >= EXTERNAL_FROM_BYTES
    if not wanted and total >= PROTOBUF_LIMIT_BYTES:
        raise CompressError(f"{total:,} bytes of weights do not fit into one .onnx file (protobuf ends at 2 GB): leave out --inline-data")
    return wanted


def serialize(emitted: Emitted, data_name: str | None) -> tuple[bytes, list[bytes]]:
    """(the .onnx file, the parts of its data file; none where no tensor is large enough to stand outside)."""
    if data_name is None or not any(_large(emitted.model)):
        return ir.to_proto(emitted.model).SerializeToString(deterministic=True), []
    parts, offset = [b"\0" * IDENTITY_BYTES], IDENTITY_BYTES
    digest = hashlib.sha256()
    model = emitted.model.clone()
    for value in _large(model):
        data = _bytes_of(value)
        padding = -offset % ALIGNMENT
        parts += [b"\0" * padding, data]
        digest.update(data)
        value.const_value = _external(value, data_name, offset + padding, len(data))
        offset += padding + len(data)
    parts[0] = MAGIC + digest.digest()
    model.metadata_props[IDENTITY_KEY] = digest.hexdigest()
    return ir.to_proto(model).SerializeToString(deterministic=True), parts


def save(emitted: Emitted, model: Path, data: Path | None) -> None:
    """Writes the model and, where `data` is given, its external file. Raises OSError."""
    proto, parts = serialize(emitted, data.name if data else None)
    if data is not None and parts:
        with data.open("wb") as file:
            file.writelines(parts)
    model.write_bytes(proto)


def size_bytes(emitted: Emitted, data_name: str | None) -> int:
    """Bytes over all files, exactly as `save` would write them."""
    proto, parts = serialize(emitted, data_name)
    return len(proto) + sum(map(len, parts))


def check_identity(path: Path, model: ir.Model) -> None:
    """Refuses an external file that belongs to another model. Raises CompressError."""
    wanted = model.metadata_props.get(IDENTITY_KEY)
    locations = {str(value.const_value.location) for value in model.graph.initializers.values() if isinstance(value.const_value, ir.ExternalTensor)}
    for location in sorted(locations) if wanted else ():
        data = path.parent / location
        try:
            with data.open("rb") as file:
                head = file.read(IDENTITY_BYTES)
        except OSError as error:
            raise CompressError(f"{path} needs its data file {data}, which cannot be read ({error.strerror}): put it beside the model") from None
        if head != MAGIC + bytes.fromhex(wanted or ""):
            raise CompressError(f"{data} belongs to another model than {path}: the two files were written together and must stay together")


def _large(model: ir.Model) -> Iterator[ir.Value]:
    """Initializers that go into the data file."""
    for value in model.graph.initializers.values():
        if value.const_value is not None and value.const_value.nbytes >= KEPT_INLINE_BYTES:
            yield value


def _bytes_of(value: ir.Value) -> bytes:
    return value.const_value.tobytes()  # type: ignore[union-attr]


def _external(value: ir.Value, location: str, offset: int, length: int) -> ir.ExternalTensor:
    tensor = value.const_value
    assert tensor is not None
    return ir.ExternalTensor(location, offset, length, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=str(value.name), base_dir="")

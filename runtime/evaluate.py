"""The reference evaluation of forms: trees to tensors, bit for bit as FORMAT.md, section 5 defines it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .form import Codebook, Dense, Grid, Mapped, Member, Planes, Sparse, Symbols
from .planes import words
from .trellis import multiples

LOG8_MANTISSAS = np.array(
    [0x3F800000, 0x3F85AAC3, 0x3F8B95C2, 0x3F91C3D3, 0x3F9837F0, 0x3F9EF532, 0x3FA5FED7, 0x3FAD583F,
     0x3FB504F3, 0x3FBD08A4, 0x3FC5672A, 0x3FCE248C, 0x3FD744FD, 0x3FE0CCDF, 0x3FEAC0C7, 0x3FF5257D],
    np.uint32,
).view(np.float32)
"""round32(2^(i/16)): one factor 1.044 between neighbours."""

PLANES_DTYPES = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 10: np.float16, 11: np.float64,
    12: np.uint32, 13: np.uint64, 16: np.uint16, 17: np.uint8, 18: np.uint8, 19: np.uint8, 20: np.uint8,
}  # fmt: skip
"""What Planes decode to; bfloat16 and the float8 types as their bits."""

INTEGER_DTYPES = {2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 21: np.uint8, 22: np.int8}


def dense_values(dense: Dense) -> NDArray[np.float32]:
    """The values of a Dense leaf, float32 [count]; exact."""
    if dense.kind == "float32":
        return dense.codes.view("<f4").astype(np.float32)
    if dense.kind == "float16":
        return dense.codes.view("<f2").astype(np.float32)
    if dense.kind == "bfloat16":
        return (dense.codes.astype(np.uint32) << 16).view(np.float32)
    return np.ldexp(LOG8_MANTISSAS[dense.codes & 15], dense.exponent + (dense.codes >> 4).astype(np.int32))


def round_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """roundbf: the bits of the nearest bfloat16, ties to even; finite values only."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return np.asarray((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, np.uint16)


def viewed_values(member: Member) -> NDArray[np.float32]:
    """A float member's values before the last rounding, float32 [batch, rows, k]."""
    match member.form:
        case Grid() as grid:
            scales = grid_scales(grid, member.view.shape)
            return np.multiply(scales, grid_multiples(grid), dtype=np.float32, casting="unsafe")  # exact in float32 below 2^24, else rounded first
        case Codebook() | Mapped() as codebook:
            values = dense_values(codebook.centroids)[centroid_numbers(codebook, member.view.shape)]
            return values if codebook.scale is None else dense_values(codebook.scale).reshape(*member.view.shape[:2], 1) * values
        case Sparse() as sparse:
            values = np.zeros(member.view.shape, np.float32)
            values[sparse.mask.levels == 1] = dense_values(sparse.values)
            return values
        case _:
            raise TypeError("a member of integers has no float values")


def grid_multiples(grid: Grid) -> NDArray[np.int32]:
    """What a grid's levels stand for, in units of its scale, int32 [batch, rows, k]."""
    return multiples(grid.levels.levels) if grid.levels.quantizers == 2 else grid.levels.levels


def centroid_numbers(form: Codebook | Mapped, shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """The centroid of every value, int32 [batch, rows, k]."""
    if isinstance(form, Codebook) or form.row_group is None:
        return form.codes.levels
    return form.codes.levels + (form.row_group.astype(np.int32) * form.size).reshape(*shape[:2], 1)


def grid_scales(grid: Grid, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """round32(scale * column_scale), broadcastable to [batch, rows, k]."""
    scale = dense_values(grid.scale)
    if len(scale) > 1:
        scale = scale.reshape(shape[0], shape[1], -1)
        if grid.block:
            scale = np.repeat(scale, grid.block, axis=2)[:, :, : shape[2]]
    return scale if grid.column_scale is None else scale * dense_values(grid.column_scale)


def member_array(member: Member) -> NDArray:
    """The tensor in its own dims and dtype; bfloat16 as its uint16 bits, a float8 as its uint8 bits."""
    if isinstance(member.form, Planes):
        return member.view.unsee(words(member)).view(PLANES_DTYPES[member.dtype])
    if isinstance(member.form, Symbols):
        return member.view.unsee(member.form.levels.astype(INTEGER_DTYPES[member.dtype]))
    with np.errstate(over="ignore", invalid="ignore"):  # IEEE's infinities are the format's
        values = member.view.unsee(viewed_values(member))
        if member.dtype == 10:
            return values.astype(np.float16)
    return round_to_bfloat16(values) if member.dtype == 16 else values

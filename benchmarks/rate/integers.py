"""Our static tables against the adaptive arithmetic coder of NNCodec (CABAC), on the very integers of our files: writes integers.csv.

usage, in the checkout: python -m benchmarks.rate.integers --nncodec PYTHON [--models FOLDER] [--only REGEX] [--out FILE.csv]

Files are those of the bars. Ours are all bytes of the payloads but scales and the dims of the weights: streams, start
states, escapes, tables, classes. NNCodec gets the levels of each weight as an int32 matrix [rows, k] in one bitstream, as its `encode` codes integers: it
knows nothing of the states of our trellis, of which both quantizers have tables of their own, so only the plain rows compare like with like.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_compress.passes.members import table_bytes
from onnx_compress.runtime import reader
from onnx_compress.runtime.form import Symbols
from onnx_compress.runtime.members import class_bits

from ..rows import write_rows
from .cases import CASES, HERE, MODELS, Case
from .ours import calibration

FILES = {
    "plain grids, tables by panel": ("--technique", "quantize", "--effort", "fast", "--prefer", "memory"),
    "plain grids, tables by row": ("--technique", "quantize", "--effort", "fast"),
    "trellises, tables by row": (),
}
"""Options of the command line. Weights of up to 65,536 values, or of 16,383 where memory comes first, have tables by row; folded ones do not count."""


@dataclass(frozen=True, slots=True)
class Row:
    """Bits a value of one file's integers."""

    model: str
    ratio: float
    levels: str
    values: int
    ours_bits: float
    tables_bits: float
    nncodec_bits: float


def main() -> None:
    """All rows that the options select."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nncodec", type=Path, required=True, help="the Python of an environment with NNCodec")
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--only", default="", help="models whose name this regular expression finds")
    parser.add_argument("--out", type=Path, default=HERE / "integers.csv")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in (case for case in CASES if re.search(arguments.only, case.model)):
            for name in FILES:
                rows.append(measured(case, name, arguments, Path(folder)))
                print(rows[-1], flush=True)
    write_rows(arguments.out, [asdict(row) for row in rows])


def measured(case: Case, levels: str, arguments: argparse.Namespace, folder: Path) -> Row:
    """Compresses one model, and codes its integers anew."""
    target = folder / "made.onnx"
    data = calibration(arguments.models, case, folder)
    command = [sys.executable, "-m", "onnx_compress.optimizer.cli", str(arguments.models / f"{case.model}.onnx"), str(target), "--target-ratio", f"{case.bar:g}"]
    command += ["--inline-data", "-f", "-q", "--calibration", str(data), *FILES[levels]]
    subprocess.run(command, check=True, capture_output=True, text=True)
    payloads = [np.frombuffer(tensor.tobytes(), np.uint8) for tensor in _tensors(target) if tensor.dtype == ir.DataType.UINT8 and tensor.tobytes()[:2] == b"OC"]
    read = [reader.read(payload) for payload in payloads]
    members = [member for payload in read for member in payload.members]
    matrices = [member.symbols.levels.reshape(-1, member.view.k) for member in members]
    values = sum(matrix.size for matrix in matrices)
    side = sum(len(table_bytes(payload.tables)) for payload in read) + sum(map(class_bytes, (member.symbols for member in members)))
    return Row(
        case.model, case.bar, levels, values, *(round(8 * size / values, 4) for size in (sum(map(stream_bytes, payloads)) + side, side, standard(matrices, arguments.nncodec, folder)))
    )  # fmt: skip


def _tensors(path: Path) -> list[ir.TensorProtocol]:
    return [value.const_value for value in ir.load(path).graph.initializers.values() if value.const_value is not None]


def stream_bytes(payload: NDArray[np.uint8]) -> int:
    """What stands behind the header: streams, start states, raw bits, escapes."""
    header = reader.read_header(payload)
    return len(payload) - (header.pool.offset if header.pool is not None else header.chunks[0].offset)


def class_bytes(symbols: Symbols) -> int:
    """The map of tables, and the classes of rows and columns."""
    rows, columns, _ = symbols.table_of.shape
    classes = [(symbols.row_class, rows), (symbols.column_class, columns)]
    return symbols.table_of.size + sum(-(-len(of) * class_bits(many) // 8) for of, many in classes if of is not None)


def standard(matrices: list[NDArray[np.int32]], python: Path, folder: Path) -> int:
    """Bytes of NNCodec's bitstream; what it decodes is checked."""
    source, target = folder / "integers.npz", folder / "decoded.npz"
    np.savez(source, **{str(number): matrix for number, matrix in enumerate(matrices)})  # type: ignore[arg-type]
    command = [str(python), "-P", str(HERE / "nncodec_worker.py"), str(source), str(target), "--qp", "-32"]
    size = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0])
    with np.load(target) as decoded:
        if not all(np.array_equal(decoded[str(number)], matrix) for number, matrix in enumerate(matrices)):
            raise RuntimeError("NNCodec does not give the integers back")
    return size


if __name__ == "__main__":
    main()

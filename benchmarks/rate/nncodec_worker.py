"""Codes arrays by NNCodec 2.1.3 and decodes them again. Runs in an environment of its own, since NNCodec needs torch and an old numpy:

    python -m venv ENV && ENV/bin/pip install nncodec==2.1.3 torch==2.13.0

usage: ENV/bin/python nncodec_worker.py IN.npz OUT.npz --qp QP [--opt-qp]

IN.npz has float32 matrices (or int32 ones, which are coded as they are), OUT.npz gets the decoded ones under the same names. Prints `BYTES SECONDS`: the bitstream's length, and how long encoding took.
This file imports no sibling.
"""

from __future__ import annotations

import argparse
import importlib.abc
import importlib.machinery
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType


class AnyMeta(type):
    """Every attribute of such a class is the class itself."""

    def __getattr__(cls, name: str) -> AnyMeta:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls


class Anything(metaclass=AnyMeta):
    """Can be called, subclassed and asked for anything: enough for code that is imported and never run."""

    def __init__(self, *arguments: object, **named: object) -> None:
        pass


class Stub(ModuleType):
    """A module that has everything."""

    def __getattr__(self, name: str) -> AnyMeta:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class Stubs(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """torchvision, whose C++ operators are not those of torch 2.13: NNCodec imports it for data sets that are not used here."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:  # noqa: ARG002
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torchvision" else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return Stub(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing to run."""


def main() -> None:
    """One bitstream."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("--qp", type=int, required=True)
    parser.add_argument("--opt-qp", action="store_true")
    arguments = parser.parse_args()
    sys.meta_path.insert(0, Stubs())
    import numpy as np
    from nncodec.nn import decode, encode  # type: ignore[import-not-found]

    with np.load(arguments.source) as stored:
        arrays = {name: stored[name] for name in stored.files}
    with tempfile.TemporaryDirectory() as folder, Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        settings = {"qp": arguments.qp, "opt_qp": arguments.opt_qp, "use_dq": True, "verbose": False, "results": folder}
        begun = time.monotonic()
        bitstream = encode(dict(arrays), args=settings, incremental=True)
        seconds = time.monotonic() - begun
        decoded = decode(bitstream)
    np.savez(arguments.target, **{name: np.asarray(decoded[name], array.dtype).reshape(array.shape) for name, array in arrays.items()})  # type: ignore[arg-type]
    print(len(bitstream), f"{seconds:.2f}")


if __name__ == "__main__":
    main()

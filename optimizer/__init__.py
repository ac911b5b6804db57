"""Models, budgets and people: `from onnx_compress.optimizer import compress, Request`.

Importing this package is cheap; onnx, numba and onnxruntime are loaded when `compress` is first asked for.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time these names come from _Package
    from .compress import compress as compress
    from .curve import curve as curve
    from .report import Report as Report
    from .report import Request as Request

__all__ = ["Report", "Request", "compress", "curve"]


class _Package(ModuleType):
    """The package, whose names are looked up when they are used.

    `compress` and `curve` name a function and the submodule that holds it. Python binds a submodule to its package's attribute of that
    name whenever it is first imported, so these attributes ignore being set: they are always the functions.
    """

    @property
    def compress(self) -> Any:
        from .compress import compress

        return compress

    @compress.setter
    def compress(self, module: ModuleType) -> None:
        pass

    @property
    def curve(self) -> Any:
        from .curve import curve

        return curve

    @curve.setter
    def curve(self, module: ModuleType) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name not in ("Report", "Request"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        from . import report

        return getattr(report, name)


sys.modules[__name__].__class__ = _Package

"""Models, budgets and people: `from onnx_compress.optimizer import compress, Request`.

Importing this package is cheap; onnx, numba and onnxruntime are loaded when one of its functions is first asked for.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time these names come from _Package
    from .compress import compress as compress
    from .curve import curve as curve
    from .inspect import inspect as inspect
    from .report import Report as Report
    from .report import Request as Request
    from .restore import restore as restore
    from .verify import verify as verify

__all__ = ["Report", "Request", "compress", "curve", "inspect", "restore", "verify"]


def _function(name: str) -> property:
    """What submodule and function of that name are to the package: the function, always.

    Python binds a submodule to its package's attribute of that name whenever it is first imported, so this attribute ignores being set.
    """
    return property(lambda _: getattr(import_module(f"{__name__}.{name}"), name), lambda *_: None)


class _Package(ModuleType):
    """The package, whose names are looked up when they are used."""

    compress, curve, inspect, restore, verify = map(_function, ("compress", "curve", "inspect", "restore", "verify"))

    def __getattr__(self, name: str) -> Any:
        if name not in ("Report", "Request"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.report"), name)


sys.modules[__name__].__class__ = _Package

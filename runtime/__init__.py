"""Runs compressed models: `session` opens one, `library_path` says where the operator library is."""

from .library import library_path
from .session import session

__all__ = ["library_path", "session"]

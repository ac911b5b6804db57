"""Errors of the payload format, with the numbers that FORMAT.md and the C++ decoder use."""

from __future__ import annotations


class FormatError(ValueError):
    """The bytes are no payload, or contradict FORMAT.md."""

    number = 1


class TruncatedError(FormatError):
    """The bytes end before what they announce."""

    number = 2


class CorruptionError(FormatError):
    """A checksum, a state or a count does not fit: the bytes were changed after they were written."""

    number = 3


class UnsupportedVersionError(FormatError):
    """A draft or a form that this version does not know."""

    number = 4

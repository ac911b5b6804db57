"""What can go wrong for a user: one clear sentence each, with the exit code of its class."""

from __future__ import annotations


class CompressError(Exception):
    """Something failed; the message names what, where and the remedy."""

    exit_code = 1


class UsageError(CompressError):
    """What was asked for makes no sense, or names something that is not there."""

    exit_code = 2


class TargetError(CompressError):
    """The target cannot be met; the message says what could be, and what stands in the way."""

    exit_code = 3


class VerificationError(CompressError):
    """The compressed model does not do what the restored one does."""

    exit_code = 4

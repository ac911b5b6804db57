"""No decoder touches a byte beyond the payload or the tensor, whatever the bytes say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import instruction_sets

LIMIT_SECONDS = 300


def guarded(code: str) -> subprocess.CompletedProcess[str]:
    """A Python of its own that finds what this one finds."""
    instruction_sets.skip_without("baseline")
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, sys.path)])
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=False, timeout=LIMIT_SECONDS, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs mprotect")
def test_payloads_directly_before_a_forbidden_page_are_decoded_or_refused() -> None:
    made = guarded("from tests import guarded; guarded.main()")
    assert made.returncode == 0, f"{made.returncode}: {made.stderr}"
    counted = re.fullmatch(r"(\d+) tried, (\d+) decoded\n", made.stdout)
    assert counted
    assert int(counted[1]) > 8000
    assert int(counted[2]) > 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs mprotect")
def test_a_read_of_the_forbidden_page_would_be_seen() -> None:
    made = guarded("import ctypes; from tests import guarded; ctypes.string_at(guarded.Guarded().last(1).ctypes.data, 2)")
    assert made.returncode < 0

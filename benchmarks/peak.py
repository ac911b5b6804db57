"""Runs a module's command line in this process and prints the peak of its memory to stderr: `python peak.py MODULE ARGUMENTS...`."""

from __future__ import annotations

import importlib
import resource
import sys


def main() -> int:
    """The exit code of MODULE.main(ARGUMENTS)."""
    code = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
    print(f"peak_mb={resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.1f}", file=sys.stderr)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())

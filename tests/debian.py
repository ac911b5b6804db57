"""Debian packages unpacked into a folder of the checkout's cache: programs that no registry of Python has, without installing anything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Missing(Exception):  # noqa: N818  (what happened, not what went wrong)
    """The packages cannot be had here; its text says why."""


def unpacked(name: str, *packages: str) -> Path:
    """The folder that the packages are unpacked in, .cache/debian/`name`; done once. Raises Missing."""
    folder = ROOT / ".cache/debian" / name
    if (folder / "ready").exists():
        return folder
    if not shutil.which("apt-get") or not shutil.which("dpkg"):
        raise Missing(f"{' '.join(packages)}: no apt-get here")
    folder.mkdir(parents=True, exist_ok=True)
    download = ["apt-get", "download", "-qq", *packages]
    # A new machine has no lists yet, and only root may fetch them.
    attempts = (download, ["apt-get", "update", "-qq"], download)
    made = [subprocess.run(attempts[0], cwd=folder, check=False, capture_output=True, text=True)]
    made += [subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True) for command in attempts[1:] if made[0].returncode]
    if made[-1].returncode:
        raise Missing(f"{' '.join(packages)}: {made[-1].stderr.strip()[:300]}")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True)
        package.unlink()
    (folder / "ready").touch()
    return folder

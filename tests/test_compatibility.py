"""Compatibility: every payload ever published decodes to the values that it was published with."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from onnx_compress.runtime.errors import UnsupportedVersionError
from onnx_compress.runtime.evaluate import member_array
from onnx_compress.runtime.header import DRAFT
from onnx_compress.runtime.reader import read

from tests import stranger, vectors

LIMIT_BYTES = 850_000


@pytest.mark.parametrize("name", vectors.names())
def test_a_vector_is_the_file_that_was_published(name: str) -> None:
    entry = vectors.manifest()[name]
    assert hashlib.sha256(vectors.payload(name)).hexdigest() == entry["sha256"]
    for member in entry["members"]:
        assert hashlib.sha256((vectors.FOLDER / member["file"]).read_bytes()).hexdigest() == member["sha256"]


@pytest.mark.parametrize("name", vectors.names())
def test_a_vector_decodes_to_its_values_or_is_refused_as_another_draft(name: str) -> None:
    data, entry = np.frombuffer(vectors.payload(name), np.uint8), vectors.manifest()[name]
    if entry["draft"] != DRAFT:
        with pytest.raises(UnsupportedVersionError):
            read(data)
        return
    for member, published, values in zip(read(data).members, entry["members"], vectors.values(name), strict=True):
        found = member_array(member)
        assert (member.dtype, list(member.view.dims)) == (published["dtype"], published["dims"])
        assert found.dtype == values.dtype
        assert found.shape == values.shape
        assert found.tobytes() == values.tobytes()


@pytest.mark.parametrize("name", vectors.names())
def test_a_vector_means_the_same_to_a_stranger(name: str) -> None:
    for found, values in zip(stranger.decode(vectors.payload(name)), vectors.values(name), strict=True):
        assert found.tobytes() == values.tobytes()


def test_the_draft_of_today_has_vectors_of_every_form_and_kind() -> None:
    ours = [name for name in vectors.names() if vectors.manifest()[name]["draft"] == DRAFT]
    forms = {type(member.form).__name__ for name in ours for member in read(np.frombuffer(vectors.payload(name), np.uint8)).members}
    assert forms == {"Grid", "Codebook", "Mapped", "Sparse", "Symbols", "Planes"}
    assert {vectors.payload(name)[3] for name in ours} == {0, 1}


def test_the_vectors_are_small() -> None:
    assert sum(file.stat().st_size for file in vectors.FOLDER.iterdir() if file.is_file()) < LIMIT_BYTES


def test_every_file_of_the_folder_is_in_the_manifest() -> None:
    known = {f"{name}.bin" for name in vectors.names()} | {
        member["file"] for entry in vectors.manifest().values() for member in entry["members"]
    }
    assert {file.name for file in vectors.FOLDER.iterdir() if file.suffix in (".bin", ".npy")} == known

"""Index folders: an index is loaded with the passages it was written with, and with no others."""

import json

import numpy as np
import pytest
from support.index_samples import normal

from jaxmodels.retrieval import DenseIndex, Passages, check_passages, load_folder, write_folder
from jaxmodels.tensor_files import TensorFileError

ROWS, TEXTS = normal(40, 16), [(f"title {i}", f"text {i}") for i in range(40)]
OTHERS = [(f"title {i}", f"another text {i}") for i in range(40)]


@pytest.mark.parity("A17")
def test_index_and_passages_are_loaded_as_written(tmp_path):
    write_folder(tmp_path, [ROWS[:30], ROWS[30:]], TEXTS, fingerprint="an encoder")
    index, passages = load_folder(tmp_path)
    np.testing.assert_array_equal(index.vectors(np.arange(40)), ROWS)
    assert list(passages) == TEXTS and index.passages == passages.digest == Passages(TEXTS).digest
    assert load_folder(tmp_path, dtype="bfloat16")[0].dtype == "bfloat16"


@pytest.mark.parity("A17")
def test_other_passages_raise(tmp_path):
    write_folder(tmp_path, [ROWS], TEXTS)
    index = DenseIndex.load(tmp_path)
    Passages.write(tmp_path, OTHERS)
    with pytest.raises(ValueError, match="was written for the passages .* got the passages .*load_folder") as caught:
        load_folder(tmp_path)
    assert len(str(caught.value)) <= 500
    with pytest.raises(ValueError, match="was written for the passages"):
        check_passages(index, Passages(OTHERS))
    check_passages(index, Passages(TEXTS))
    check_passages(index, OTHERS)  # a list has no digest: only its length is checked
    with pytest.raises(ValueError, match="40 rows, got 39 passages"):
        check_passages(index, Passages(TEXTS[:39]))


def test_the_digest_of_passages_is_saved_and_loaded(tmp_path):
    digest = Passages(TEXTS).digest
    index = DenseIndex(ROWS)
    assert index.passages is None
    index = index.with_passages(digest).with_fingerprint("an encoder")
    index.save(tmp_path)
    loaded = DenseIndex.load(tmp_path)
    assert (loaded.passages, loaded.fingerprint) == (digest, "an encoder")
    assert loaded.update_rows(0, ROWS[:2]).passages == digest
    check_passages(DenseIndex(ROWS), Passages(OTHERS))  # nothing is known


def test_a_manifest_of_version_0_1_has_no_digest_of_passages(tmp_path):
    write_folder(tmp_path, [ROWS], TEXTS)
    path = tmp_path / "dense_index.json"
    manifest = json.loads(path.read_text())
    del manifest["passages"]
    path.write_text(json.dumps(manifest))
    assert load_folder(tmp_path)[0].passages is None
    path.write_text(json.dumps(manifest | {"passages": 3}))
    with pytest.raises(TensorFileError, match="string or null, found 3"):
        load_folder(tmp_path)


def test_different_numbers_of_rows_and_passages_write_nothing(tmp_path):
    write_folder(tmp_path, [ROWS], TEXTS)
    with pytest.raises(ValueError, match="40 embeddings and 39 passages"):
        write_folder(tmp_path, [ROWS], OTHERS[:39])
    assert list(load_folder(tmp_path)[1]) == TEXTS

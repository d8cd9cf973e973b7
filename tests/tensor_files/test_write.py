import os
import stat

import jax
import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.tensor_files.safetensors_file import write_tensors


@pytest.fixture(params=(0o022, 0o027, 0o077), ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.skipif(os.name != "posix", reason="a file's mode is Unix's")
def test_weights_have_the_default_file_permissions(umask, tmp_path):
    model = jm.GPT2LMHeadModel(jm.GPT2Config(n_embd=4, n_layer=1, n_head=1, n_positions=8, vocab_size=16))
    jm.save(tmp_path / "model", model, jm.init(model, jax.random.key(0)))
    jm.DenseIndex(np.eye(4, dtype=np.float32)).save(tmp_path / "index")
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("*/*") if file.is_file()}
    assert sum(name.endswith(".safetensors") for name in modes) == 2
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_tensors_and_metadata_round_trip(tmp_path):
    from safetensors import safe_open

    write_tensors(tmp_path / "a", {"w": np.arange(6, dtype=np.int8).reshape(2, 3)}, {"format": "pt"})
    with safe_open(tmp_path / "a", "numpy") as file:
        np.testing.assert_array_equal(file.get_tensor("w"), [[0, 1, 2], [3, 4, 5]])
        assert file.metadata() == {"format": "pt"}

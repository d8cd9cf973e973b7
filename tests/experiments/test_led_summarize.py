"""The complete summarisation experiment with a tiny config, also when killed; and the attention map."""

import json

import jax
import matplotlib.image
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from support import summary_samples as samples
from support.experiment_runs import curve, finish, keys, kill_when, logged, starter

import jaxmodels as jm
from experiments import led_summarize
from experiments.configs import led_qmsum_4096, led_qmsum_16384, led_smoke
from experiments.summarize.attention_map import attention_map, dense_attention

STEPS = 12


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """start(workdir) -> a running process with piped output."""
    data = samples.folder(tmp_path_factory.mktemp("qmsum"))
    return starter(
        "led_summarize",
        "--config=led_smoke",
        f"--config.data.path={data}",
        f"--config.data.transfer={data / 'reports.jsonl'}",
    )


@pytest.mark.slow
def test_killed_run_matches_uninterrupted_run(start, uninterrupted, tmp_path):
    folder = tmp_path / "killed"
    log = folder / "metrics.jsonl"
    assert kill_when(start(folder), lambda: logged(log) >= 7), "the run was over before it could be killed"
    assert "resuming from the checkpoint of step" in finish(start(folder))
    assert curve(folder) == curve(uninterrupted[0])
    for name in ("model/model.safetensors", "test.jsonl", "transfer.jsonl"):
        assert (folder / name).read_bytes() == (uninterrupted[0] / name).read_bytes()


@pytest.mark.slow
def test_output_files_and_messages_of_a_run(uninterrupted):
    folder, output = uninterrupted
    rows = curve(folder)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "test_loss" in row] == [4, 8, 12]
    losses = [row["test_loss"] for row in rows if "test_loss" in row]
    assert losses[-1] < losses[0], "it learns"
    result = json.loads((folder / "result.json").read_text())
    assert (result["test_requests"], result["transfer_requests"]) == (6, 2)
    for side in ("test", "transfer"):
        assert len(result[side]) == 4
        for name, table in result[side].items():
            assert [*table] == ["ROUGE-1", "ROUGE-2", "ROUGE-L"] and all(0 <= score <= 1 for score in table.values())
            assert any(line.split()[: len(name.split())] == name.split() for line in output.splitlines())
    written = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    assert [*written[0]] == ["query", "summary", "reference"] and len(written) == 6
    assert set(result["loss"]) == {"own document", "another document", "token frequencies"}
    for picture in ("loss.png", "attention_map.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")
    assert "16 requests about 4 documents" in output


@pytest.mark.slow
def test_scores_are_reproduced_by_the_saved_model(uninterrupted):
    folder, _ = uninterrupted
    model, _ = jm.load(folder / "model")
    tokenizer = jm.load_tokenizer(folder / "model")
    assert isinstance(model, jm.LEDForConditionalGeneration) and isinstance(tokenizer, jm.LEDTokenizer)
    assert model.config.decoder_start_token_id == tokenizer.eos_token_id == 2
    assert model.config.max_encoder_position_embeddings == 64 and model.config.attention_window == 8


def test_complete_run_prints_its_result_without_training(uninterrupted, capsys):
    folder, before = uninterrupted
    config = FrozenConfigDict(led_smoke.get_config())
    led_summarize.show(led_summarize.run(config, folder), config, folder)
    output = capsys.readouterr().out
    assert "this run is complete" in output
    assert output.split("ROUGE F1", 1)[1] == before.split("ROUGE F1", 1)[1]


@pytest.fixture(scope="module")
def attended():
    """A tiny LED with large weights, 20 tokens padded to 24 with 3 global ones, and the attention probabilities."""
    config = jm.LEDConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, init_std=0.8,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, attention_window=4,
        max_encoder_position_embeddings=32, max_decoder_position_embeddings=8,
    )  # fmt: skip
    model = jm.LEDForConditionalGeneration(config)
    params = jm.init(model, jax.random.key(0))
    example = {
        "input_ids": np.random.default_rng(0).integers(4, 40, (1, 24)),
        "attention_mask": np.array([[1] * 20 + [0] * 4]),
        "global_attention_mask": np.array([[1, 1, 0, 0, 0, 0, 0, 0, 0, 1] + [0] * 14]),
    }
    options = {"output_attentions": True, "max_global_tokens": 3, "method": "encode"}
    out = jax.jit(lambda read: model.apply({"params": params}, **read, **options))(example)
    local, wide = (np.asarray(of[-1][0].mean(axis=0)) for of in (out.attentions, out.global_attentions))
    return model, params, example, local, wide.T


def test_full_resolution_map_is_the_attention_matrix(attended):
    *_, local, wide = attended
    places = np.array([0, 1, 9])
    found = dense_attention(local, wide, places, 20, 20)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5, err_msg="every real token's probabilities")
    rows, keys = np.indices(found.shape)
    seen = (abs(rows - keys) <= 2) | np.isin(keys, places) | np.isin(rows, places)
    assert (found[seen] > 0).all() and (found[~seen] == 0).all()
    np.testing.assert_allclose(found[9], wide[2, :20])
    np.testing.assert_allclose(found[5, 3:8], local[5, 3:])
    np.testing.assert_allclose(found[15, places], local[15, :3])


def test_downsampled_map_has_the_maximum_of_each_block(attended):
    *_, local, wide = attended
    places = np.array([0, 1, 9])
    fine, coarse = (dense_attention(local, wide, places, 20, points) for points in (20, 7))
    padded = np.pad(fine, (0, 1))
    assert coarse.shape == (7, 7)
    np.testing.assert_array_equal(coarse, padded.reshape(7, 3, 7, 3).max(axis=(1, 3)))


def test_plot_marks_the_global_tokens(attended, tmp_path):
    model, params, example, *_ = attended
    attention_map(tmp_path / "map.png", model, params, example)
    pixels = matplotlib.image.imread(tmp_path / "map.png")[..., :3]
    red = (pixels[..., 0] > 0.7) & (pixels[..., 1] < 0.3)
    assert pixels.shape[0] > 500 and red.sum() > 1000
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"]


@pytest.mark.parametrize("module", [led_smoke, led_qmsum_16384])
def test_configs_have_the_same_keys(module):
    assert keys(module.get_config()) == keys(led_qmsum_4096.get_config())

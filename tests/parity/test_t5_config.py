"""T5's config and its buckets of distances (docs/parity.md, A20, C1)."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from transformers.models.t5.modeling_t5 import T5Attention

import jaxmodels as jm
from jaxmodels.architectures.t5.model import relative_buckets

# What the Hub's t5-small says, but for the texts of task_specific_params.
T5_SMALL = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_heads": 8,
    "num_layers": 6,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "task_specific_params": {"summarization": {"max_length": 200, "num_beams": 4, "prefix": "summarize: "}},
    "vocab_size": 32128,
}
FLAN = {
    "dense_act_fn": "gelu_new",
    "feed_forward_proj": "gated-gelu",
    "is_gated_act": True,
    "num_decoder_layers": 8,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
    "transformers_version": "4.23.1",
    "use_cache": True,
}


def rounded_log(x: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.log(x.double().numpy())).to(x.dtype)


@pytest.mark.parametrize("log", [torch.log, rounded_log], ids=["torch", "rounded"])
@pytest.mark.parametrize("bidirectional", [True, False], ids=["both sides", "causal"])
@pytest.mark.parity("A20")
def test_buckets_are_the_reference_s(bidirectional, log, monkeypatch):
    """With 9 and 19 buckets a logarithm in float64 differs, with 36 and 72 one that is not rounded correctly: so
    is torch's on some processors."""
    monkeypatch.setattr(torch, "log", log)
    relative = np.arange(-1100, 1101)
    for count in (4, 5, 7, 8, 9, 16, 19, 32, 64, *((36, 72) if log is rounded_log else ())):
        for most in (4, 10, 16, 20, 50, 64, 100, 128, 1000):
            if most > count // 2:
                got = relative_buckets(relative, bidirectional=bidirectional, buckets=count, max_distance=most)
                expected = T5Attention._relative_position_bucket(torch.tensor(relative), bidirectional, count, most)
                np.testing.assert_array_equal(got, expected, err_msg=f"{count} {most}")
                assert got.dtype == np.int32 and got.min() == 0 and got.max() < count


@pytest.mark.parametrize("values", [T5_SMALL, {**T5_SMALL, **FLAN}], ids=["t5-small", "flan-t5"])
@pytest.mark.parity("C1")
def test_config_files_of_the_hub_are_read_and_written_again(values, tmp_path):
    config = jm.T5Config.from_dict(values)
    written = config.to_dict()
    assert {key: written[key] for key in values} == values
    assert jm.T5Config.from_dict(json.loads(config.to_json())) == config
    (tmp_path / "config.json").write_text(config.to_json())
    reference = transformers.T5Config.from_pretrained(tmp_path)
    for key in ("num_decoder_layers", "dense_act_fn", "is_gated_act", "tie_word_embeddings", "hidden_size", "d_kv"):
        assert getattr(config, key) == getattr(reference, key), key


@pytest.mark.parity("C1")
def test_defaults_are_the_reference_s():
    ours, reference = jm.T5Config(), transformers.T5Config()
    for key, value in reference.to_dict().items():
        if hasattr(ours, key) and key not in ("id2label", "label2id"):
            mine = getattr(ours, key)
            assert (dict(mine) if key == "pruned_heads" else mine) == value, key
    assert jm.T5Config.from_dict(reference.to_dict()).replace(generation={}, extra={}) == ours


@pytest.mark.parametrize(
    ("form", "name", "gated"),
    [("relu", "relu", False), ("gated-gelu", "gelu_new", True), ("gated-silu", "silu", True), ("gelu", "gelu", False)],
)
@pytest.mark.parity("A20")
def test_every_form_of_feed_forward_is_read(form, name, gated):
    ours, reference = jm.T5Config(feed_forward_proj=form), transformers.T5Config(feed_forward_proj=form)
    assert (ours.dense_act_fn, ours.is_gated_act) == (reference.dense_act_fn, reference.is_gated_act) == (name, gated)


@pytest.mark.parity("C1")
def test_aliases_are_read_and_the_decoder_has_its_own_depth():
    config = jm.T5Config(hidden_size=32, num_attention_heads=2, num_hidden_layers=3)
    assert (config.d_model, config.num_heads, config.num_layers, config.num_decoder_layers) == (32, 2, 3, 3)
    assert config.replace(num_hidden_layers=4).num_decoder_layers == 3
    assert jm.T5Config(num_decoder_layers=1).num_decoder_layers == 1


REFUSED = {
    "form of three": ({"feed_forward_proj": "gated-gelu-new"}, "feed_forward_proj must be an activation, or 'gated-'"),
    "form without a gate": (
        {"feed_forward_proj": "double-relu"},
        "feed_forward_proj must be an activation, or 'gated-'",
    ),
    "activation": ({"feed_forward_proj": "gated-relo"}, "got 'gated-relo'; the activations are"),
    "what follows": ({"dense_act_fn": "relu"}, "'dense_act_fn' has no effect here: derived from feed_forward_proj"),
    "pruned": ({"pruned_heads": {0: [1]}}, "pruned_heads"),
    "tied stacks": ({"tie_encoder_decoder": True}, "tie_encoder_decoder"),
    "chunks": ({"chunk_size_feed_forward": 2}, "chunk_size_feed_forward"),
    "no encoder": ({"is_encoder_decoder": False}, "is_encoder_decoder"),
    "decoder": ({"is_decoder": True}, "is_decoder"),
    "width": ({"d_kv": 0}, "d_kv must be a positive int"),
    "decoder layers": ({"num_decoder_layers": 0}, "num_decoder_layers must be a positive int"),
    "rate": ({"dropout_rate": 1.0}, "dropout_rate must be a rate"),
    "few buckets": ({"relative_attention_num_buckets": 3}, "relative_attention_num_buckets must be at least 4"),
    "short": ({"relative_attention_max_distance": 16}, "relative_attention_max_distance more than half"),
    "pad": ({"pad_token_id": 40000}, "pad_token_id=40000 is outside"),
    "unknown": ({"d_vk": 3}, "did you mean 'd_kv'"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parity("C1")
def test_what_cannot_be_is_refused_by_name(name):
    values, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        jm.T5Config(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dense_act_fn": "gelu"}, "dense_act_fn='gelu' contradicts feed_forward_proj='relu'"),
        ({"is_gated_act": True}, "is_gated_act=True contradicts"),
    ],
)
@pytest.mark.parity("C1")
def test_a_file_that_contradicts_itself_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        jm.T5Config.from_dict(values)


@pytest.mark.parity("C7")
def test_pruning_is_refused_by_name():
    model = jm.T5Model(jm.T5Config(vocab_size=9, d_model=8, d_kv=2, d_ff=8, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="pruned_heads"):
        jm.prune_heads(model, jm.init(model, jax.random.key(0)), {0: [1]})

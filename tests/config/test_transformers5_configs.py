"""Config files written by transformers 5, of every model type (docs/parity.md, C1, C9)."""

import json
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny import tiny

import jaxmodels as jm

# config.json and generation_config.json of tiny models, by name, in tests/testdata.
FILES = json.loads((Path(__file__).parents[1] / "testdata" / "configs5.json").read_text())
# Older names of keys, and records of the writer.
OTHERWISE = {"dtype": "torch_dtype", "question_encoder": None, "generator": None, "model_type": None}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parity("C1")
def test_files_of_transformers_5_load_without_warning(name, tmp_path):
    for file, contents in FILES[name].items():
        (tmp_path / f"{file}.json").write_text(json.dumps(contents))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = jm.load_config(tmp_path)
    written = config.to_dict()
    for key, value in FILES[name]["config"].items():
        key = OTHERWISE.get(key, key)
        if key is None or (value is None and name == "rag"):  # token ids of a RAG default to the generator's
            continue
        if key == "id2label":
            value = {int(i): label for i, label in value.items()}
        assert written[key] == value, key


RUN = {"input_ids": jnp.asarray([[5, 6, 7, 8]]), "decoder_input_ids": jnp.asarray([[0, 9, 10]])}


@pytest.fixture(params=["T5", "RAG"])
def untied(request, tmp_path):
    """A folder with an untied T5, alone or in a RAG, with its config as release 5 writes it; model and parameters."""
    model, params = tiny("T5ForConditionalGeneration", tie_word_embeddings=False, pad_token_id=1)
    if request.param == "RAG":
        encoder, own = tiny("DPRQuestionEncoder")
        config = jm.RagConfig(question_encoder=encoder.config, generator=model.config, n_docs=1)
        model = jm.RagSequenceForGeneration(config)
        params = {"rag": {"question_encoder": own, "generator": params}}
    jm.save(tmp_path, model, params)
    written = json.loads((tmp_path / "config.json").read_text())
    written.get("generator", written).update(tie_word_embeddings=True, scale_decoder_outputs=False)
    (tmp_path / "config.json").write_text(json.dumps(written))
    return tmp_path, model, params


@pytest.mark.parity("C9", "C16")
def test_separate_t5_head_is_detected_from_the_tensors(untied):
    folder, model, params = untied
    loaded, found = jm.load(folder)
    inside = [each.config.generator if hasattr(each.config, "generator") else each.config for each in (loaded, model)]
    assert [config.tie_word_embeddings for config in inside] == [False, False]
    run = {**RUN}
    if type(model) is jm.RagSequenceForGeneration:
        context = {"context_input_ids": RUN["input_ids"], "context_attention_mask": jnp.ones((1, 4), int)}
        run |= {**context, "doc_scores": jnp.ones((1, 1))}
    expected, got = (
        each.apply({"params": values}, **run).logits for each, values in ((model, params), (loaded, found))
    )
    np.testing.assert_array_equal(expected, got)


@pytest.mark.parity("C9")
def test_missing_head_is_the_unscaled_embeddings(tmp_path):
    model, params = tiny("T5ForConditionalGeneration", scale_decoder_outputs=False)
    jm.save(tmp_path, model, params)
    loaded, found = jm.load(tmp_path)
    assert loaded.config.tie_word_embeddings and not loaded.config.scales_outputs
    logits = model.apply({"params": params}, **RUN).logits
    np.testing.assert_array_equal(loaded.apply({"params": found}, **RUN).logits, logits)
    scaled = (
        model.clone(config=model.config.replace(scale_decoder_outputs=True)).apply({"params": params}, **RUN).logits
    )
    np.testing.assert_allclose(scaled * model.config.d_model**0.5, logits, rtol=1e-4, atol=1e-5)

"""Checkpoints exchanged with transformers 5 give the same outputs in both (docs/parity.md, C16).

That release is not importable by the tests; it runs in a separate process (see tools/transformers5.py).
"""

import json
import subprocess
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from support.arrays import close
from support.tiny import CLASSES, random_params, sizes
from tools import transformers5

import jaxmodels as jm

_rng = np.random.default_rng(3)
IDS = _rng.integers(4, 60, (2, 8)).tolist()
MASK = [[1] * 8, [1] * 6 + [0] * 2]
DECODER = {"decoder_input_ids": _rng.integers(4, 60, (2, 5)).tolist()}
WORDS = {"input_ids": IDS, "attention_mask": MASK}
CONTEXTS = {
    "context_input_ids": _rng.integers(4, 60, (4, 7)).tolist(),
    "context_attention_mask": [[1] * 7] * 4,
    "doc_scores": [[0.5, -0.25], [1.0, 0.75]],
}
TEXT_IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
T5 = {**sizes("T5"), **TEXT_IDS, "bos_token_id": None}
GATED = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART = {**sizes("Bart"), **TEXT_IDS}
DPR = {**sizes("DPR"), "model_type": "dpr"}


def _case(name: str) -> dict:
    config = {**sizes(name), **TEXT_IDS}
    inputs = {"input_ids": IDS}
    if name.startswith(("T5", "Bart", "LED")):
        config = T5 if name.startswith("T5") else config
        inputs = {**WORDS, **({} if "ForSequence" in name or "ForQuestion" in name else DECODER)}
    if name == "GPT2DoubleHeadsModel":
        inputs = {"input_ids": [IDS], "mc_token_ids": [[7, 5]]}
    if name == "GPT2ForSequenceClassification":
        inputs = {"input_ids": [[5, 6, 7, 8, 9, 10, 11, 12], [5, 6, 7, 8, 9, 10, 1, 1]]}
    if name.endswith("MultipleChoice"):
        inputs = {"input_ids": [IDS]}
    if name.endswith(("CausalLM", "BertLMHeadModel")):
        config["is_decoder"] = True
    if "ForSequence" in name and name.startswith("LED"):
        inputs = {"input_ids": [[*row[:-1], 2] for row in IDS]}
    return {"class": name, "config": config, "inputs": inputs}


def _rag(name: str, generator: dict) -> dict:
    config = {"question_encoder": DPR, "generator": generator, "n_docs": 2}
    return {"class": name, "config": config, "inputs": {"input_ids": IDS, **CONTEXTS, **DECODER}}


T5_CLASS = "T5ForConditionalGeneration"
CASES = {name: _case(name) for name in CLASSES if name != "LEDForSequenceClassification"} | {
    "T5 of 1.1, tied": {"class": T5_CLASS, "config": GATED, "inputs": {**WORDS, **DECODER}},
    "T5 of 1.1": {"class": T5_CLASS, "config": GATED, "inputs": {**WORDS, **DECODER}, "head": "own"},
    "T5 of 1.0, untied": {"class": T5_CLASS, "config": T5, "inputs": {**WORDS, **DECODER}, "head": "own"},
    "RagModel": _rag("RagModel", {**BART, "model_type": "bart"}),
    "RagSequence": _rag("RagSequenceForGeneration", {**BART, "model_type": "bart"}),
    "RagToken with T5": _rag("RagTokenForGeneration", {**GATED, "model_type": "t5"}),
}


@pytest.fixture(scope="module", autouse=True)
def release():
    try:
        transformers5.install()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"transformers {transformers5.VERSION} cannot be installed: {error.stderr.strip()[-200:]}")


@pytest.fixture(scope="module")
def written(tmp_path_factory, release):
    folder = tmp_path_factory.mktemp("written")
    (folder / "models.json").write_text(json.dumps(CASES))
    transformers5.run("write", folder)
    return folder


def agree(model, params, inputs: dict, path) -> None:
    out = model.apply({"params": params}, **{key: jnp.asarray(value) for key, value in inputs.items()})
    with np.load(path) as found:
        shared = [key for key in found if getattr(out, key, None) is not None]
        assert shared
        for key in shared:
            close(getattr(out, key), found[key])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parity("C1", "C16")
@pytest.mark.parametrize("name", CASES)
def test_checkpoints_of_transformers_5_match_its_outputs(name, written):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, params = jm.load(written / name)
    assert type(model).__name__ == CASES[name]["class"]
    agree(model, params, CASES[name]["inputs"], written / name / "outputs.npz")


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parity("C16")
def test_saved_checkpoints_match_in_transformers_5(tmp_path):
    models = {}
    for name, case in CASES.items():
        cls = getattr(jm, case["class"])
        model = cls(cls.config_class.from_dict(case["config"]))
        models[name] = model, random_params(model)
        jm.save(tmp_path / name, *models[name])
    (tmp_path / "models.json").write_text(json.dumps(CASES))
    transformers5.run("read", tmp_path)
    for name, (model, params) in models.items():
        agree(model, params, CASES[name]["inputs"], tmp_path / name / "outputs.npz")

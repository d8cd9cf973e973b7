"""Tied and untied word embeddings: no table is loaded in place of another (docs/parity.md, A19, C9, C16)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from support.arrays import close, ids
from support.loading import quietly, same
from support.rag_pairs import CONTEXTS, LABELS
from support.reference import Pair, agree, agree_in_training, reference_output, torch_model
from support.tiny import random_params, sizes, tiny

import jaxmodels as jm
from jaxmodels import sharding
from jaxmodels.parameters import flatten

NAME = "BartForConditionalGeneration"
INPUTS = {"input_ids": ids((2, 6), low=3), "decoder_input_ids": ids((2, 5), seed=1, low=3)}
EMBEDDINGS = [f"{part}.weight" for part in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")]
PARTS = ("shared", "encoder", "decoder")


def separate_embeddings(folder, safe: bool, name: str = NAME) -> transformers.PreTrainedModel:
    """A BART of the reference with separate embeddings for encoder, decoder and head, saved by the reference."""
    model = torch_model(name, tie_word_embeddings=False)
    base = model.model if name == NAME else model
    for seed, stack in enumerate((base.encoder, base.decoder)):
        table = torch.randn(67, 32, generator=torch.Generator().manual_seed(seed))
        stack.embed_tokens.weight = torch.nn.Parameter(table)
    model.save_pretrained(folder, safe_serialization=safe)
    return model


@pytest.fixture(scope="module")
def untied(tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp("untied")
    reference = separate_embeddings(folder, True)
    return Pair(reference, *quietly(folder), folder)


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
@pytest.mark.parametrize("name", [NAME, "BartModel"])
@pytest.mark.parity("A19", "C16")
def test_three_embedding_tables_round_trip(name, safe, tmp_path):
    reference = separate_embeddings(tmp_path / "theirs", safe, name)
    model, params = quietly(tmp_path / "theirs")
    agree(Pair(reference, model, params, tmp_path), **INPUTS)
    jm.save(tmp_path / "ours", model, params)
    same(quietly(tmp_path / "ours")[1], params)
    again, report = getattr(transformers, name).from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    prefix = "model." if name == NAME else ""
    for table in EMBEDDINGS:
        expected = reference.state_dict()[prefix + table]
        torch.testing.assert_close(again.state_dict()[prefix + table], expected, rtol=0, atol=0)


@pytest.mark.parity("A19")
def test_each_stack_trains_its_own_embeddings(untied):
    labels = {"labels": INPUTS["decoder_input_ids"], "input_ids": INPUTS["input_ids"]}
    agree_in_training(untied, **labels)


@pytest.mark.parity("A19")
def test_generation_uses_the_decoder_embeddings(untied):
    settings = {"max_new_tokens": 6, "num_beams": 2, "do_sample": False, "forced_eos_token_id": None}
    expected = untied.reference.generate(torch.tensor(INPUTS["input_ids"]), **settings)
    got = jm.generate(untied.model, untied.params, INPUTS["input_ids"], **settings).sequences
    np.testing.assert_array_equal(np.asarray(got)[:, : expected.shape[1]], expected.numpy())


@pytest.mark.parity("C8")
def test_every_embedding_table_is_resized_and_sharded(untied):
    model, params = jm.resize_token_embeddings(untied.model, untied.params, 72, key=jax.random.key(0))
    for part in PARTS:
        table = params["model"]["shared" if part == "shared" else part]
        table = table if part == "shared" else table["embed_tokens"]
        old = untied.params["model"][part] if part == "shared" else untied.params["model"][part]["embed_tokens"]
        np.testing.assert_array_equal(table["embedding"][:67], old["embedding"])
        assert table["embedding"].shape == (72, 32)
    whole = model.apply({"params": params}, **INPUTS).logits
    shardings = sharding.shardings(model, sharding.make_mesh({"data": 2, "model": 4}), sharding.FSDP_TP)
    placed = jax.device_put(params, shardings)
    assert len(placed["model"]["decoder"]["embed_tokens"]["embedding"].sharding.device_set) == 8
    close(jax.jit(lambda p: model.apply({"params": p}, **INPUTS).logits)(placed), whole)


@pytest.mark.parity("A19")
def test_init_creates_every_embedding_table():
    model, params = tiny(NAME, tie_word_embeddings=False)
    assert {path for path in flatten(params) if "embed_tokens" in path or "shared" in path} == {
        "model/shared/embedding",
        "model/encoder/embed_tokens/embedding",
        "model/decoder/embed_tokens/embedding",
    }
    fresh = jm.init(model, jax.random.key(0))
    assert {path: leaf.shape for path, leaf in flatten(fresh).items()} == {
        path: leaf.shape for path, leaf in flatten(params).items()
    }


@pytest.mark.parity("A1", "A19")
def test_rag_with_an_untied_bart_keeps_its_tables(tmp_path):
    config = jm.RagConfig(
        question_encoder=jm.DPRConfig(**sizes("DPR")),
        generator=jm.BartConfig(**sizes("Bart"), tie_word_embeddings=False),
        n_docs=3,
    )
    model = jm.RagTokenForGeneration(config)
    params = random_params(model)
    jm.save(tmp_path, model, params)
    loaded, again = quietly(tmp_path)
    same(again, params)
    reference, report = transformers.RagTokenForGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    inputs = {**CONTEXTS, "labels": LABELS}
    expected = reference_output(Pair(reference.eval(), loaded, again, tmp_path), **inputs)
    got = jax.jit(lambda p: loaded.apply({"params": p}, **inputs))(again)
    close(got.logits, expected.logits)
    close(got.loss, expected.loss)
    names = [f"rag.generator.model.{table}" for table in EMBEDDINGS]
    tensors = load_file(tmp_path / "model.safetensors")
    assert {*names, "rag.generator.lm_head.weight"} <= tensors.keys()
    del tensors[names[2]]
    write(tmp_path, tensors)
    with pytest.raises(jm.WeightsError, match="shared.weight, .*encoder.embed_tokens.weight"):
        jm.load(tmp_path)


def write(folder, tensors, file_format="safetensors"):
    """Replaces the weights of the folder."""
    (folder / "model.safetensors").unlink(missing_ok=True)
    if file_format == "safetensors":
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif file_format == "bin":
        torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, folder / "pytorch_model.bin")


@pytest.mark.parametrize("present_name", EMBEDDINGS)
@pytest.mark.parity("C16")
def test_single_table_fills_all_three(present_name, tmp_path):
    """The reference writes an untied BART like this if it was not loaded from a file."""
    model, params = tiny(NAME, tie_word_embeddings=False)
    jm.save(tmp_path, model, params)
    tensors = load_file(tmp_path / "model.safetensors")
    table = tensors[f"model.{present_name}"]
    for name in EMBEDDINGS:
        if name != present_name:
            del tensors[f"model.{name}"]
    write(tmp_path, tensors)
    found = quietly(tmp_path)[1]["model"]
    for part in (found["shared"], found["encoder"]["embed_tokens"], found["decoder"]["embed_tokens"]):
        np.testing.assert_array_equal(part["embedding"], table)


@pytest.mark.parametrize("lacking", EMBEDDINGS)
@pytest.mark.parity("C16")
def test_ambiguous_missing_table_is_rejected(lacking, tmp_path):
    jm.save(tmp_path, *tiny(NAME, tie_word_embeddings=False))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors[f"model.{lacking}"]
    write(tmp_path, tensors)
    present = ", ".join(name for name in EMBEDDINGS if name != lacking)
    with pytest.raises(
        jm.WeightsError, match=f"{present}: each has a parameter, but {lacking} could be a copy of either"
    ):
        jm.load(tmp_path)


WORDS = "roberta_prelayernorm.embeddings.word_embeddings.weight"
CONFLICTS = {
    "gpt2": ("GPT2LMHeadModel", "transformer.wte.weight", "lm_head.weight", "tie_word_embeddings=False"),
    "roberta": ("RobertaPreLayerNormForMaskedLM", WORDS, "lm_head.decoder.weight", "tie_word_embeddings=False"),
    "roberta's bias": ("RobertaPreLayerNormForMaskedLM", "lm_head.bias", "lm_head.decoder.bias", "leave the right one"),
    "bart's head": (NAME, "model.shared.weight", "lm_head.weight", "tie_word_embeddings=False"),
    "bart": (NAME, "model.shared.weight", "model.decoder.embed_tokens.weight", "tie_word_embeddings=False"),
    "led": ("LEDModel", "shared.weight", "encoder.embed_tokens.weight", "leave the right one"),
    "led's head": ("LEDForConditionalGeneration", "led.shared.weight", "lm_head.weight", "tie_word_embeddings=False"),
    "t5": ("T5Model", "shared.weight", "decoder.embed_tokens.weight", "leave the right one"),
    "t5's head": ("T5ForConditionalGeneration", "shared.weight", "lm_head.weight", "tie_word_embeddings=False"),
}


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
@pytest.mark.parametrize("case", CONFLICTS)
@pytest.mark.parity("C9", "C16")
def test_conflicting_tables_are_reported(case, file_format, tmp_path):
    """transformers 4.57 silently takes the one that it ties last."""
    name, original, copy, hint = CONFLICTS[case]
    model, params = tiny(name)
    jm.save(tmp_path, model, params)
    tensors = load_file(tmp_path / "model.safetensors")
    write(tmp_path, {**tensors, copy: tensors[original].copy()}, file_format)
    same(quietly(tmp_path)[1], params)  # a copy adds nothing
    changed = tensors[original].copy()
    changed.flat[-1] += 1
    write(tmp_path, {**tensors, copy: changed}, file_format)
    with pytest.raises(jm.WeightsError) as caught:
        jm.load(tmp_path)
    [line] = caught.value.apart
    short = [each.removeprefix("transformer.").removeprefix("roberta_prelayernorm.") for each in (original, copy)]
    short = [each.removeprefix("model.").removeprefix("led.") for each in short]
    assert line.startswith(f"{short[0]}, {short[1]}: {hint}") and line in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parity("C9", "C16")
def test_tie_word_embeddings_false_loads_differing_tables(tmp_path):
    jm.save(tmp_path, *tiny(NAME, tie_word_embeddings=False))
    tensors = load_file(tmp_path / "model.safetensors")
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"tie_word_embeddings": false', '"tie_word_embeddings": true'))
    with pytest.raises(jm.WeightsError, match="tie_word_embeddings=False loads each"):
        jm.load(tmp_path)
    params = quietly(tmp_path, tie_word_embeddings=False)[1]
    for name, part in (("model.decoder.embed_tokens.weight", params["model"]["decoder"]["embed_tokens"]["embedding"]),
                       ("lm_head.weight", params["lm_head"]["kernel"].T)):  # fmt: skip
        np.testing.assert_array_equal(part, tensors[name])


@pytest.mark.parity("C16")
def test_duplicate_names_must_have_equal_values(tmp_path):
    model, params = tiny("GPT2LMHeadModel")
    jm.save(tmp_path, model, params)
    tensors = load_file(tmp_path / "model.safetensors")
    write(tmp_path, {**tensors, "wpe.weight": tensors["transformer.wpe.weight"].copy()})
    same(quietly(tmp_path)[1], params)
    write(tmp_path, {**tensors, "wpe.weight": tensors["transformer.wpe.weight"] + 1})
    with pytest.raises(jm.WeightsError, match="transformer.wpe.weight and wpe.weight"):
        jm.load(tmp_path)


@pytest.mark.parity("L17")
def test_led_from_an_untied_bart_has_one_table(tmp_path):
    model, params = tiny("BartModel", tie_word_embeddings=False)
    with pytest.raises(ValueError, match="encoder/embed_tokens and decoder/embed_tokens"):
        jm.led_from_bart(model, params, attention_window=4, max_encoder_position_embeddings=32)
    params["decoder"]["embed_tokens"] = params["encoder"]["embed_tokens"]
    led, made = jm.led_from_bart(model, params, attention_window=4, max_encoder_position_embeddings=32)
    np.testing.assert_array_equal(made["shared"]["embedding"], params["encoder"]["embed_tokens"]["embedding"])
    jm.save(tmp_path, led, made)
    same(quietly(tmp_path)[1], jax.tree.map(jnp.asarray, made))

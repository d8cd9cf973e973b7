"""LoRA adapters in PEFT's format, in both directions: equal logits in torch with peft and here."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file
from support.arrays import close, ids
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.parameters import flatten, unflatten

peft = pytest.importorskip("peft")

RANK, ALPHA = 3, 7.0
TOKENS = ids((2, 8))
WHOLE = {
    "BertForSequenceClassification": ("classifier", "bert/pooler"),
    "RobertaForSequenceClassification": ("classifier",),
}
AUTO = {
    "GPT2LMHeadModel": "AutoModelForCausalLM",
    "LlamaForCausalLM": "AutoModelForCausalLM",
    "T5ForConditionalGeneration": "AutoModelForSeq2SeqLM",
    "BartForConditionalGeneration": "AutoModelForSeq2SeqLM",
    **dict.fromkeys(WHOLE, "AutoModelForSequenceClassification"),
}
FAST = ("GPT2LMHeadModel", "BertForSequenceClassification")
NAMES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in AUTO]


def inputs_of(model) -> dict[str, np.ndarray]:
    return {"input_ids": TOKENS} | ({"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {})


def logits(model, params):
    return jax.jit(lambda params: model.apply({"params": params}, **inputs_of(model)).logits)(params)


def torch_logits(module, model):
    with torch.no_grad():
        return module.eval()(**{name: torch.tensor(array) for name, array in inputs_of(model).items()}).logits.numpy()


def adapted(params, whole) -> dict:
    """The parameters with drawn adapters of all kernels of layers, and others for those of `whole`."""
    rng, flat = np.random.default_rng(0), dict(flatten(params))
    for path, array in flatten(params).items():
        if path.startswith(tuple(f"{name}/" for name in whole)):
            flat[path] = rng.normal(size=array.shape).astype(np.float32)
        if "/layers/" in path and path.endswith("/kernel"):
            inputs = array.shape[1] if not path.endswith("attention/out/kernel") else array.shape[1] * array.shape[2]
            outputs = array[0].size // inputs
            flat[path + "_lora_a"] = rng.normal(size=(len(array), inputs, RANK)).astype(np.float32)
            flat[path + "_lora_b"] = 0.02 * rng.normal(size=(len(array), RANK, outputs)).astype(np.float32)
    return unflatten(flat)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("adapters")


def base_of(folder, name):
    """The saved base model, and the model in torch."""
    model, params = tiny(name)
    if not (folder / name).exists():
        jm.save(folder / name, model, params)
    return model, params, getattr(transformers, AUTO[name]).from_pretrained(folder / name)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", NAMES)
def test_saved_adapters_give_equal_logits_in_torch_and_here(folder, name):
    model, params, module = base_of(folder, name)
    whole = WHOLE.get(name, ())
    trained = adapted(params, whole)
    merged = jm.merge_adapter(trained, ALPHA)
    jm.save_adapter(folder / f"{name}-ours", model, trained, alpha=ALPHA, whole=whole, base=folder / name)
    expected = logits(model, merged)
    assert np.abs(expected - logits(model, params)).max() > 1e-2
    theirs = peft.PeftModel.from_pretrained(module, folder / f"{name}-ours")
    close(torch_logits(theirs, model), expected, tolerance=1e-5)
    close(logits(model, jm.load_adapter(folder / f"{name}-ours", model, params)), expected, tolerance=1e-5)


OPTIONS = {
    "GPT2LMHeadModel": {"target_modules": ["attn.c_attn", "mlp.c_proj"], "fan_in_fan_out": True, "use_rslora": True},
    "BertForSequenceClassification": {
        "target_modules": ["query", "word_embeddings", "output.dense"],
        "modules_to_save": ["classifier"],
        "bias": "lora_only",
        "rank_pattern": {"layer.0.attention.self.query": 1},
        "alpha_pattern": {"layer.0.attention.self.query": 5},
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_adapters_of_peft_are_merged(folder, name):
    """Some modules of a fused kernel, square kernels, ranks and alphas by module, embeddings, biases, a whole head."""
    model, params, module = base_of(folder, name)
    torch.manual_seed(0)
    theirs = peft.get_peft_model(module, peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.5, **OPTIONS[name]))
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    theirs.save_pretrained(folder / f"{name}-theirs")
    got = jm.load_adapter(folder / f"{name}-theirs", model, params)
    close(logits(model, got), torch_logits(theirs, model), tolerance=1e-5)
    assert jax.tree.map(np.shape, got) == jax.tree.map(np.shape, params)


def test_shardings_and_dtypes_are_kept(folder):
    model, params, _ = base_of(folder, "GPT2LMHeadModel")
    trained = adapted(params, ())
    jm.save_adapter(folder / "sharded", model, trained, alpha=ALPHA)
    mesh, rules = jm.sharding.make_mesh({"data": 2}, jax.devices()[:2]), jm.sharding.FSDP
    placed = jax.device_put(
        jax.tree.map(lambda a: a.astype("bfloat16"), params), jm.sharding.shardings(model, mesh, rules)
    )
    got = jm.load_adapter(folder / "sharded", model, placed)
    for path, leaf in flatten(got).items():
        assert leaf.sharding == flatten(placed)[path].sharding and leaf.dtype == "bfloat16", path
    close(
        flatten(got)["transformer/h/layers/attention/qkv/kernel"].astype("float32"),
        flatten(jm.merge_adapter(trained, ALPHA))["transformer/h/layers/attention/qkv/kernel"],
        tolerance=1e-2,
    )


CONFIG = {
    "another method": ({"peft_type": "IA3"}, "peft_type is 'IA3', only LORA"),
    "DoRA": ({"use_dora": True}, "use_dora is not supported; merge it with peft's merge_and_unload"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model_for_weight_conversion"),
    "no alpha": ({"lora_alpha": None}, "must be numbers up to 1000000, got"),
    "huge alpha": ({"alpha_pattern": {"c_fc": 10**400}}, "must be numbers up to 1000000, got"),
    "expression": ({"alpha_pattern": {"(a+)+": 1}}, "regular expression"),
}


@pytest.mark.parametrize("kind", CONFIG)
def test_unsupported_adapters_are_refused(folder, tmp_path, kind):
    model, params, _ = base_of(folder, "GPT2LMHeadModel")
    jm.save_adapter(tmp_path, model, adapted(params, ()), alpha=ALPHA)
    changes, message = CONFIG[kind]
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ValueError, match=message.replace("(", "[(]")):
        jm.load_adapter(tmp_path, model, params)


def test_adapters_of_another_model_are_refused(folder, tmp_path):
    model, params, _ = base_of(folder, "GPT2LMHeadModel")
    jm.save_adapter(tmp_path, model, adapted(params, ()), alpha=ALPHA, base="someone/gpt2")
    other, other_params = tiny("BertForSequenceClassification")
    with pytest.raises(jm.WeightsError, match=r"unexpected: 16\n(.|\n)*trained on 'someone/gpt2', with its head"):
        jm.load_adapter(tmp_path, other, other_params)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    first = "base_model.model.transformer.h.0.mlp.c_fc.lora_A.weight"
    for damaged in ({**tensors, first: tensors[first][:, 1:]}, {n: t for n, t in tensors.items() if n != first}):
        save_file(damaged, file)
        with pytest.raises(jm.WeightsError, match=r"different shape: 1\n.*c_fc.weight: (\(31, |half of an adapter)"):
            jm.load_adapter(tmp_path, model, params)
    with pytest.raises(FileNotFoundError, match="no adapter_config.json, so it is no adapter"):
        jm.load_adapter(folder / "GPT2LMHeadModel", model, params)


def test_parameters_without_adapters_are_refused(folder, tmp_path):
    model, params, _ = base_of(folder, "GPT2LMHeadModel")
    with pytest.raises(ValueError, match="have no adapters"):
        jm.save_adapter(tmp_path, model, params, alpha=ALPHA)
    trained = adapted(params, ())
    with pytest.raises(ValueError, match="whole has no parameter or module 'lm_head'; there are"):
        jm.save_adapter(tmp_path, model, trained, alpha=ALPHA, whole=["lm_head"])
    half = unflatten({p: a for p, a in flatten(trained).items() if not p.endswith("up/kernel_lora_b")})
    with pytest.raises(ValueError, match="have a part of an adapter, but not .*up/kernel_lora_b"):
        jm.merge_adapter(half, ALPHA)
    assert not list(tmp_path.iterdir())

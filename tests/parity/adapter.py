"""Runs one ready-made parity case through the public API: `run(case_dir, case) -> {output name: array}`."""

import dataclasses
import inspect
import json
from pathlib import Path

import jax
import numpy as np

import jaxmodels as jm

jax.config.update("jax_default_matmul_precision", "highest")


def run(case_dir: Path, case: dict) -> dict[str, np.ndarray]:
    inputs = dict(np.load(case_dir / "inputs.npz"))
    return RUNNERS[case["kind"]](case_dir, case, inputs)


def named(output, prefix: str = "") -> dict[str, np.ndarray]:
    """Every array of an output by name; what is stacked or a tuple over layers is numbered."""
    arrays = {}
    for field, value in output.items():
        if field.endswith(("hidden_states", "attentions")):
            arrays |= {f"{prefix}{field}.{i}": np.asarray(layer) for i, layer in enumerate(value)}
        elif field != "cache":
            arrays[prefix + field] = np.asarray(value)
    return arrays


def forward(case_dir, case, inputs):
    model, params = jm.load(case_dir / "checkpoint", cls=getattr(jm, case["class"]))
    # The inputs stay concrete: LED takes the number of global tokens from its mask.
    return named(jax.jit(lambda params: model.apply({"params": params}, **inputs, **case["call"]))(params))


def steps(case_dir, case, inputs):
    if "decoder_input_ids" in inputs:
        return decoder_steps(case_dir, case, inputs)
    model, params = jm.load(case_dir / "checkpoint", cls=getattr(jm, case["class"]))
    step = jax.jit(lambda params, cache, part: model.apply({"params": params}, cache=cache, **part, **case["call"]))
    batch, length = inputs["input_ids"].shape
    cache, start, arrays = model.init_cache(batch, length), 0, {}
    for i, count in enumerate(case["steps"]):
        out = step(params, cache, {k: v[:, start : start + count] for k, v in inputs.items()})
        # The cache has room for all tokens; the reference's attentions end at those seen so far.
        seen = None if out.attentions is None else out.attentions[..., : start + count]
        arrays |= named(dataclasses.replace(out, attentions=seen), f"step{i}.")
        cache, start = out.cache, start + count
    return arrays


def decoder_steps(case_dir, case, inputs):
    """Encoder once, then the decoder in pieces."""
    model, params = jm.load(case_dir / "checkpoint", cls=getattr(jm, case["class"]))
    ids, mask = inputs.pop("decoder_input_ids"), inputs.get("attention_mask")
    encoded = jax.jit(lambda params: model.apply({"params": params}, **inputs, **case["call"], method="encode"))(params)
    arrays = named(encoded, "step0.encoder_")

    @jax.jit
    def step(params, ids, states, cache):
        source = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        return model.apply({"params": params}, ids, **source, cache=cache, **case["call"], method="decode")

    cache, start = model.init_cache(*ids.shape), 0
    for i, count in enumerate(case["steps"]):
        states = encoded.last_hidden_state if i == 0 else None
        out = step(params, ids[:, start : start + count], states, cache)
        arrays |= named(dataclasses.replace(out, attentions=None, hidden_states=None), f"step{i}.")
        own = {"hidden_states": out.hidden_states, "attentions": out.attentions[..., : start + count]}
        arrays |= {
            f"step{i}.decoder_{name}.{n}": np.asarray(a) for name, all_ in own.items() for n, a in enumerate(all_)
        }
        cache, start = out.cache, start + count
    for n, layer in enumerate(cache.layers):
        kept = (layer.past.key, layer.past.value, layer.cross.key, layer.cross.value)
        arrays |= {f"step{i}.past_key_values.{n}.{j}": np.asarray(a) for j, a in enumerate(kept)}
    return arrays


def generate(case_dir, case, inputs):
    model, params = jm.load(case_dir / "checkpoint", cls=getattr(jm, case["class"]))
    result = jm.generate(model, params, **inputs, **case["call"], **case["generate"])
    return {k: np.asarray(v) for k, v in vars(result).items() if v is not None}


def retriever(case_dir, case, inputs):
    config = jm.RagConfig.from_dict(json.loads((case_dir / "checkpoint" / "config.json").read_text()))
    passages = [(p["title"], p["text"]) for p in json.loads((case_dir / "passages.json").read_text())]
    tokenizer = jm.RagTokenizer.from_pretrained(case_dir)
    index = jm.DenseIndex(inputs["passage_embeddings"])
    found = jm.RagRetriever(config, tokenizer.question_encoder, tokenizer.generator, index=index, passages=passages)
    result = found(inputs["question_input_ids"], inputs["question_hidden_states"], **case["call"])
    return {name: np.asarray(value) for name, value in result.items()}


RUNNERS = {"forward": forward, "steps": steps, "generate": generate, "retriever": retriever}
assert inspect.isfunction(run)

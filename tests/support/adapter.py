"""Runs one ready-made parity case through the public API: `run(case_dir, case) -> {output name: array}`."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxmodels as jm

jax.config.update("jax_default_matmul_precision", "highest")


def run(case_dir: Path, case: dict) -> dict[str, np.ndarray]:
    file = case_dir / "inputs.npz"
    inputs = dict(np.load(file)) if file.exists() else {}
    return RUNNERS[case["kind"]](case_dir, case, inputs)


def checkpoint(case_dir: Path, case: dict) -> Path:
    """Cases of one model name the folder of the first."""
    return case_dir / case.get("checkpoint", "checkpoint")


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
    model, params = jm.load(checkpoint(case_dir, case), cls=getattr(jm, case["class"]))
    # The inputs stay concrete: LED takes the number of global tokens from its mask.
    return named(jax.jit(lambda params: model.apply({"params": params}, **inputs, **case["call"]))(params))


def steps(case_dir, case, inputs):
    if "decoder_input_ids" in inputs:
        return decoder_steps(case_dir, case, inputs)
    model, params = jm.load(checkpoint(case_dir, case), cls=getattr(jm, case["class"]))
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
    model, params = jm.load(checkpoint(case_dir, case), cls=getattr(jm, case["class"]))
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
        kept = (*layer.past.read(jnp.float32), *layer.cross.read(jnp.float32))
        arrays |= {f"step{i}.past_key_values.{n}.{j}": np.swapaxes(a, 1, 2) for j, a in enumerate(kept)}
    return arrays


def generate(case_dir, case, inputs):
    model, params = jm.load(checkpoint(case_dir, case), cls=getattr(jm, case["class"]))
    result = jm.generate(model, params, **inputs, **case["call"], **case["generate"])
    return {k: np.asarray(v) for k, v in vars(result).items() if v is not None}


def retriever(case_dir, case, inputs):
    config = jm.RagConfig.from_dict(json.loads((checkpoint(case_dir, case) / "config.json").read_text()))
    passages = [(p["title"], p["text"]) for p in json.loads((case_dir / "passages.json").read_text())]
    both = jm.RagTokenizer.from_pretrained(case_dir)
    index = jm.DenseIndex(inputs["passage_embeddings"])
    found = jm.RagRetriever(config, both.question_encoder, both.generator, index=index, passages=passages)
    result = found(inputs["question_input_ids"], inputs["question_hidden_states"], **case["call"])
    return {name: np.asarray(value) for name, value in result.items()}


def tokenizer_of(case_dir, case):
    return jm.load_tokenizer(case_dir / "tokenizer", getattr(jm, case["class"]), **case.get("init", {}))


def tokenizer(case_dir, case, inputs):
    """A case's calls name a method and its arguments; their results are numbered."""
    loaded, arrays = tokenizer_of(case_dir, case), {}
    for i, call in enumerate(case["calls"]):
        arrays |= flat(f"{i}", getattr(loaded, call["method"])(*call["args"], **call["kwargs"]))
    return arrays


def flat(name: str, value) -> dict[str, np.ndarray]:
    """A result under every name that a case may give it: whole where it is rectangular, and row by row."""
    if isinstance(value, Mapping):
        return {full: array for key in value for full, array in flat(f"{name}.{key}", value[key]).items()}
    rows = {f"{name}.{i}": np.asarray(row) for i, row in enumerate(value)} if np.ndim(value[:0]) else {}
    try:
        return rows | {name: np.asarray(value)}
    except ValueError:  # rows of different lengths
        return rows


def decode_best_spans(case_dir, case, inputs):
    logits = [inputs[name] for name in ("start_logits", "end_logits", "relevance_logits")]
    encoded = {"input_ids": inputs["input_ids"]}
    spans = tokenizer_of(case_dir, case).decode_best_spans(encoded, logits, **case["call"])
    return {name: np.asarray([getattr(span, name) for span in spans]) for name in spans[0]._fields}


RUNNERS = {runner.__name__: runner for runner in (forward, steps, generate, retriever, tokenizer, decode_best_spans)}

"""jaxmodels."""

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

import jaxmodels as jm
from benchmarks.memory import provide
from benchmarks.peers import (
    Job,
    as_values,
    in_order,
    padded,
    padded_left,
    random_queries,
    random_rows,
    some_logits,
    some_states,
    total,
)
from jaxmodels.architectures.base import Model
from jaxmodels.parameters import abstract
from jaxmodels.retrieval.search import best_of_shard
from jaxmodels.training import abstract_state, init_state, make_step


def decode(folder: str, ids: list[list[int]], new: int, beams: int = 1) -> Job:
    model, params = jm.load(folder)
    inputs = {"input_ids": np.array(ids, np.int32), "max_new_tokens": new, "num_beams": beams}
    return Job(lambda: _generate(model, params, inputs))


def decode_mixed(folder: str, texts: list[list[int]], new: int, rows: int | None = None) -> Job:
    """rows: Texts per batch, sorted by length; None: all in one batch."""
    model, params = jm.load(folder)
    plan = jm.length_batches([len(text) for text in texts], rows or len(texts))
    batches = [(indices, *padded_left([texts[index] for index in indices])) for indices, _ in plan]

    def run():
        found = []
        for indices, ids, mask in batches:
            out = jm.generate(model, params, ids, attention_mask=mask, max_new_tokens=new)
            assert out.sequences is not None
            found.append((indices, out.sequences[:, ids.shape[1] :]))
        return jax.block_until_ready(found)

    return Job(run, values=in_order)


def decode_with(folder: str, ids: list[list[int]], new: int, options: dict) -> Job:
    """Decode with options; the output is not compared with peers."""
    model, params = jm.load(folder)
    prompt = np.array(ids, np.int32)
    inputs = {"input_ids": prompt, "max_new_tokens": new, "key": jax.random.key(0), **options}

    def run():
        sequences = _generate(model, params, inputs)
        if sequences.shape[1] != prompt.shape[1] + new:
            raise ValueError(f"expected {new} new tokens, got {sequences.shape[1] - prompt.shape[1]}")
        return sequences

    return Job(run, values=lambda _: [])


def decode_with_each(folder: str, config: dict, ids: list[list[int]], new: int, options: dict[str, dict]) -> Job:
    """Measure the time that each set of options adds, with a model so narrow that it takes little time itself.

    `folder` is not used.
    """
    model = jm.GPT2LMHeadModel(jm.GPT2Config(**config))
    params, prompt = jm.init(model, jax.random.key(0)), np.array(ids, np.int32)

    def seconds(chosen: dict) -> float:
        start = time.perf_counter()
        inputs = {"input_ids": prompt, "max_new_tokens": new, "key": jax.random.key(0), **chosen}
        _generate(model, params, inputs)
        return time.perf_counter() - start

    def run():
        taken = {"nothing": {}, **options}
        # The minimum of several runs, since other processes only add time.
        turns = [{name: seconds(chosen) for name, chosen in taken.items()} for _ in range(4)]
        return {name: min(turn[name] for turn in turns[1:]) / new * 1e6 for name in taken}

    def facts(times: dict[str, float]) -> dict[str, float]:
        base = times["nothing"]
        return {"us a token": base} | {f"+ {name}": times[name] - base for name in options}

    return Job(run, values=lambda _: [], facts=facts)


def prefill(folder: str, ids: list[list[int]]) -> Job:
    model, params = jm.load(folder)
    prompt = jnp.array(ids, jnp.int32)
    forward = jax.jit(partial(model.apply, logits_to_keep=1))
    return Job(lambda: forward({"params": params}, prompt).logits.block_until_ready())


def train(folder: str, ids: list[list[int]]) -> Job:
    model, params = jm.load(folder)
    batch = {"input_ids": jnp.array(ids, jnp.int32), "labels": jnp.array(ids, jnp.int32)}
    optimizer = _optimizer()
    step, key = make_step(model, optimizer), jax.random.key(0)
    state = init_state(optimizer, params)

    def run():
        nonlocal state
        state, metrics = step(state, batch, key)
        return jax.block_until_ready((state, metrics))[1]["loss"]

    return Job(run)


def load(folder: str) -> Job:
    jax.devices()  # starts the backend, as an import would
    provide()

    def run():
        _, params = jm.load(folder)
        return total(np.asarray(leaf) for leaf in jax.tree.leaves(params))

    return Job(run)


def compile_step(folder: str, config: dict, ids: list[list[int]], unroll: bool = False) -> Job:
    """Trace, lower and compile a training step without parameters; `folder` is not used."""
    model = jm.GPT2LMHeadModel(jm.GPT2Config(**config), unroll=unroll)
    batch = dict.fromkeys(("input_ids", "labels"), jax.ShapeDtypeStruct(np.shape(ids), jnp.int32))
    optimizer = _optimizer()
    state, key = abstract_state(model, optimizer), jax.random.key(0)

    def run():
        lowered = make_step(model, optimizer).lower(state, batch, key)
        lowered.compile()
        return lowered

    return Job(run, values=lambda lowered: [], facts=lambda lowered: {"program KiB": len(lowered.as_text()) / 1024})


def encode(folder: str, texts: list[list[int]], rows: int, multiple: int = 32) -> Job:
    model, params = jm.load(folder)
    plan = jm.length_batches([len(text) for text in texts], rows, multiple=multiple)
    batches = [padded(texts, indices, width) for indices, width in plan]
    forward = jax.jit(lambda params, ids, mask: model.apply({"params": params}, ids, attention_mask=mask).pooler_output)

    def run():
        # All batches are dispatched before waiting for the first one.
        return [(indices, forward(params, ids, mask)) for indices, ids, mask in batches]

    return Job(lambda: jax.block_until_ready(run()), values=in_order)


def long_encode(folder: str, ids: list[list[int]]) -> Job:
    model, params, inputs = _led(folder, ids)
    return Job(lambda: _states(model, params, inputs).block_until_ready(), values=some_states)


def long_decode(folder: str, ids: list[list[int]], new: int) -> Job:
    model, params, inputs = _led(folder, ids)
    states = _states(model, params, inputs).block_until_ready()

    def run():
        options = {"input_ids": inputs["input_ids"], "encoder_outputs": (states,), "max_new_tokens": new}
        return _generate(model, params, options)

    return Job(run)


def long_answer(folder: str, ids: list[list[int]], new: int, beams: int) -> Job:
    model, params, inputs = _led(folder, ids)
    options = {**inputs, "max_new_tokens": new, "num_beams": beams}
    return Job(lambda: _generate(model, params, options))


def _led(folder: str, ids: list[list[int]]):
    model, params = jm.load(folder, cls=jm.LEDForConditionalGeneration, max_global_tokens=1)
    batch = np.array(ids, np.int32)
    first = np.zeros_like(batch)
    first[:, 0] = 1
    return model, params, {"input_ids": batch, "global_attention_mask": first}


@partial(jax.jit, static_argnums=0)
def _states(model, params, inputs):
    return model.apply({"params": params}, **inputs, method="encode").last_hidden_state


def documents_answer(folder: str, cls: str, ids: list[list[int]], doc_scores: list, new: int, beams: int) -> Job:
    model, params = jm.load(folder, cls=getattr(jm, cls))
    contexts, scores = np.array(ids, np.int32), np.array(doc_scores, np.float32)
    found = {"context_input_ids": contexts, "context_attention_mask": contexts != 1, "doc_scores": scores}
    options = {**found, "max_length": new + 1, "num_beams": beams}
    return Job(lambda: _generate(model, params, options))


def masked_lm(folder: str, ids: list[list[int]]) -> Job:
    model, params = jm.load(folder)
    batch = jnp.array(ids, jnp.int32)
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch).logits)
    return Job(lambda: forward(params, batch).block_until_ready(), values=some_logits)


def search(folder: str, rows: int, width: int, queries: int, k: int) -> Job:
    index = jm.DenseIndex.from_batches(random_rows(rows, width), rows=rows)
    questions = jnp.asarray(random_queries(queries, width))
    return Job(lambda: jax.block_until_ready(index.search(questions, k)), values=lambda found: as_values(found[0]))


def search_shards(folder: str, rows: int, width: int, queries: int, k: int, merged: bool) -> Job:
    """Search over all devices of this process; with merged=False, only up to the best results of each device."""
    mesh = jm.sharding.make_mesh({"data": jax.device_count()})
    index = jm.DenseIndex.from_batches(random_rows(rows, width), rows=rows, mesh=mesh)
    questions = jnp.asarray(random_queries(queries, width))
    if merged:
        return Job(lambda: jax.block_until_ready(index.search(questions, k)), values=lambda found: as_values(found[0]))
    replicated, per_device = PartitionSpec(), PartitionSpec(None, index.layout.axes)

    def local_search(values: jax.Array, questions: jax.Array) -> tuple[jax.Array, jax.Array]:
        return best_of_shard(index.layout, values, None, questions, k)

    found = jax.jit(
        jax.shard_map(
            local_search,
            mesh=mesh,
            in_specs=(index.layout.spec, replicated),
            out_specs=(per_device, per_device),
            check_vma=False,
        )
    )
    # The queries are sent to all devices in every call, as in a search.
    replicated_sharding = NamedSharding(mesh, replicated)
    placed = partial(jax.device_put, questions, replicated_sharding)
    return Job(lambda: jax.block_until_ready(found(index.values, placed())), values=lambda _: [])


def memory(folder: str, cls: str, config: dict, ids: list[list[int]], attention: str) -> Job:
    """Compile a forward pass without parameters, to measure its additional memory; `folder` is not used."""
    model_class = getattr(jm, cls)
    model = model_class(model_class.config_class(**config), attention=attention)
    batch = jax.ShapeDtypeStruct(np.shape(ids), jnp.int32)
    forward = jax.jit(lambda params, ids: model.apply({"params": params}, ids)[0])

    def run():
        return forward.lower(abstract(model), batch).compile().memory_analysis()

    return Job(run, values=lambda _: [], facts=lambda found: {"temporary MiB": found.temp_size_in_bytes / 2**20})


def write_weights(folder: str, cls: str, config: dict) -> Job:
    """Write random weights in Hugging Face format, for all peers."""
    model_class = getattr(jm, cls)
    model = model_class(model_class.config_class(**config))

    def run():
        jm.save(folder, model, jm.init(model, jax.random.key(0)))
        return []

    return Job(run)


def _generate(model: Model, params: dict, inputs: Mapping[str, Any]) -> jax.Array:
    """Call `jm.generate` and wait for the generated ids."""
    sequences = jm.generate(model, params, **inputs).sequences
    assert sequences is not None
    return sequences.block_until_ready()


def _optimizer() -> optax.GradientTransformation:
    return optax.adamw(1e-4, weight_decay=0.01)

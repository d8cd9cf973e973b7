"""jaxmodels."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxmodels as jm
from benchmarks.peers import Job, in_order, padded, some_logits, some_states, total
from jaxmodels.parameters import abstract
from jaxmodels.training import abstract_state, init_state, make_step


def decode(folder: str, ids: list[list[int]], new: int) -> Job:
    model, params = jm.load(folder)
    prompt = np.array(ids, np.int32)
    return Job(lambda: jm.generate(model, params, prompt, max_new_tokens=new).sequences.block_until_ready())


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

    def run():
        _, params = jm.load(folder)
        return total(np.asarray(leaf) for leaf in jax.tree.leaves(params))

    return Job(run)


def compile_step(folder: str, config: dict, ids: list[list[int]], unroll: bool) -> Job:
    """Traces, lowers and compiles a training step without any parameters; `folder` is not read."""
    model = jm.GPT2LMHeadModel(jm.GPT2Config(**config), unroll=unroll)
    batch = dict.fromkeys(("input_ids", "labels"), jax.ShapeDtypeStruct(np.shape(ids), jnp.int32))
    optimizer = _optimizer()
    state, key = abstract_state(model, optimizer), jax.random.key(0)

    def run():
        lowered = make_step(model, optimizer).lower(state, batch, key)
        lowered.compile()
        return lowered

    return Job(run, values=lambda lowered: [], facts=lambda lowered: {"program KiB": len(lowered.as_text()) / 1024})


def encode(folder: str, texts: list[list[int]], rows: int) -> Job:
    model, params = jm.load(folder)
    plan = jm.length_batches([len(text) for text in texts], rows)
    batches = [padded(texts, places, width) for places, width in plan]
    forward = jax.jit(lambda params, ids, mask: model.apply({"params": params}, ids, attention_mask=mask).pooler_output)

    def run():
        # All batches are on their way before the first is waited for.
        return [(places, forward(params, ids, mask)) for places, ids, mask in batches]

    return Job(lambda: jax.block_until_ready(run()), values=in_order)


def long_encode(folder: str, ids: list[list[int]]) -> Job:
    model, params, inputs = _led(folder, ids)
    return Job(lambda: _states(model, params, inputs).block_until_ready(), values=some_states)


def long_decode(folder: str, ids: list[list[int]], new: int) -> Job:
    model, params, inputs = _led(folder, ids)
    states = _states(model, params, inputs).block_until_ready()

    def run():
        out = jm.generate(model, params, inputs["input_ids"], encoder_outputs=(states,), max_new_tokens=new)
        return out.sequences.block_until_ready()

    return Job(run)


def _led(folder: str, ids: list[list[int]]):
    model, params = jm.load(folder, cls=jm.LEDForConditionalGeneration, max_global_tokens=1)
    batch = np.array(ids, np.int32)
    first = np.zeros_like(batch)
    first[:, 0] = 1
    return model, params, {"input_ids": batch, "global_attention_mask": first}


@partial(jax.jit, static_argnums=0)
def _states(model, params, inputs):
    return model.apply({"params": params}, **inputs, method="encode").last_hidden_state


def masked_lm(folder: str, ids: list[list[int]]) -> Job:
    model, params = jm.load(folder)
    batch = jnp.array(ids, jnp.int32)
    forward = jax.jit(lambda params, batch: model.apply({"params": params}, batch).logits)
    return Job(lambda: forward(params, batch).block_until_ready(), values=some_logits)


def memory(folder: str, cls: str, config: dict, ids: list[list[int]], attention: str) -> Job:
    """Compiles a forward pass without any parameters, for the memory it takes beside them; `folder` is not read."""
    cls = getattr(jm, cls)
    model = cls(cls.config_class(**config), attention=attention)
    batch = jax.ShapeDtypeStruct(np.shape(ids), jnp.int32)
    forward = jax.jit(lambda params, ids: model.apply({"params": params}, ids)[0])

    def run():
        return forward.lower(abstract(model), batch).compile().memory_analysis()

    return Job(run, values=lambda _: [], facts=lambda found: {"temporary MiB": found.temp_size_in_bytes / 2**20})


def write_weights(folder: str, cls: str, config: dict) -> Job:
    """Random weights in Hugging Face's format, which every peer then loads."""
    cls = getattr(jm, cls)
    model = cls(cls.config_class(**config))

    def run():
        jm.save(folder, model, jm.init(model, jax.random.key(0)))
        return []

    return Job(run)


def _optimizer() -> optax.GradientTransformation:
    return optax.adamw(1e-4, weight_decay=0.01)

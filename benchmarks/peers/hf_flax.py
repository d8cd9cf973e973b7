"""The former Hugging Face Flax models (in Transformers up to 4.57)."""

import json
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file, save_file
from transformers import FlaxBertModel, FlaxGPT2LMHeadModel, FlaxRobertaPreLayerNormForMaskedLM, GPT2Config

from benchmarks.memory import provide
from benchmarks.peers import Job, as_they_come, in_order, some_logits, total


def decode(folder: str, ids: list[list[int]], new: int, beams: int = 1) -> Job:
    model, params = _load(folder)
    prompt = jnp.array(ids, jnp.int32)

    # Its `generate` traces the model again in every call, which takes seconds; users wrap it in jit.
    @jax.jit
    def generate(params, prompt):
        # None is not accepted; this id is outside the vocabulary, so that no sequence ends early.
        eos = model.config.vocab_size
        options = {"max_length": prompt.shape[1] + new, "do_sample": False, "eos_token_id": eos, "pad_token_id": 0}
        options["num_beams"] = beams
        return model.generate(prompt, params=params, **options).sequences

    return Job(lambda: generate(params, prompt).block_until_ready())


def prefill(folder: str, ids: list[list[int]]) -> Job:
    model, params = _load(folder)
    prompt = jnp.array(ids, jnp.int32)
    # There is no option to omit the logits of the other positions.
    forward = jax.jit(lambda params, prompt: model(prompt, params=params).logits[:, -1])
    return Job(lambda: forward(params, prompt).block_until_ready())


def train(folder: str, ids: list[list[int]]) -> Job:
    model, params = _load(folder)
    batch = jnp.array(ids, jnp.int32)
    optimizer = _optimizer()
    step, state = _step(model, optimizer), jax.jit(optimizer.init)(params)

    def run():
        nonlocal params, state
        params, state, value = jax.block_until_ready(step(params, state, batch))
        return value

    return Job(run)


def compile_step(folder: str, config: dict, ids: list[list[int]]) -> Job:
    """Trace, lower and compile a training step without parameters; `folder` is not used."""
    model = FlaxGPT2LMHeadModel(GPT2Config(**config), _do_init=False)
    params, batch = model.params_shape_tree, jax.ShapeDtypeStruct(np.shape(ids), jnp.int32)
    optimizer = _optimizer()
    state = jax.eval_shape(optimizer.init, params)

    def run():
        lowered = _step(model, optimizer).lower(params, state, batch)
        lowered.compile()
        return lowered

    return Job(run, values=lambda lowered: [], facts=lambda lowered: {"program KiB": len(lowered.as_text()) / 1024})


def _optimizer() -> optax.GradientTransformation:
    return optax.adamw(1e-4, weight_decay=0.01)


def _step(model: FlaxGPT2LMHeadModel, optimizer: optax.GradientTransformation):
    def loss(params, batch):
        logits = model(batch, params=params).logits[:, :-1]
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        value, gradients = jax.value_and_grad(loss)(params, batch)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    return step


def encode(folder: str, texts: list[list[int]], rows: int) -> Job:
    """The first state of BERT, since there is no Flax DPR."""
    with tempfile.TemporaryDirectory() as bert:
        _write_bert(Path(folder), Path(bert))
        model = FlaxBertModel.from_pretrained(bert, add_pooling_layer=False)
    params, batches = jax.tree.map(jnp.asarray, model.params), as_they_come(texts, rows)

    @jax.jit
    def forward(params, ids, mask):
        return model(ids, attention_mask=mask, params=params).last_hidden_state[:, 0]

    def run():
        return [(indices, forward(params, ids, mask)) for indices, ids, mask in batches]

    return Job(lambda: jax.block_until_ready(run()), values=in_order)


def masked_lm(folder: str, ids: list[list[int]]) -> Job:
    model = FlaxRobertaPreLayerNormForMaskedLM.from_pretrained(folder)
    params, batch = jax.tree.map(jnp.asarray, model.params), jnp.array(ids, jnp.int32)
    forward = jax.jit(lambda params, batch: model(batch, params=params).logits)
    return Job(lambda: forward(params, batch).block_until_ready(), values=some_logits)


def _write_bert(dpr: Path, bert: Path) -> None:
    """Write the encoder in a DPR folder as a BERT folder."""
    tensors = load_file(dpr / "model.safetensors")
    renamed = {name.removeprefix("ctx_encoder.bert_model."): tensor for name, tensor in tensors.items()}
    save_file(renamed, bert / "model.safetensors", metadata={"format": "pt"})
    (bert / "config.json").write_text(
        json.dumps({**json.loads((dpr / "config.json").read_text()), "model_type": "bert"})
    )


def load(folder: str) -> Job:
    jax.devices()  # starts the backend, as an import would
    provide()

    def run():
        model = FlaxGPT2LMHeadModel.from_pretrained(folder)
        return total(np.asarray(leaf) for leaf in jax.tree.leaves(model.params))

    return Job(run)


def _load(folder: str) -> tuple[FlaxGPT2LMHeadModel, dict]:
    model = FlaxGPT2LMHeadModel.from_pretrained(folder)
    return model, jax.tree.map(jnp.asarray, model.params)

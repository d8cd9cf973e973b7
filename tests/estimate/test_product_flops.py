"""FLOPs of matrix products in loops and kernels, and weights read per token, computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.tiny import tiny

from jaxmodels import sharding
from jaxmodels.estimate.analysis import decoding_loop, product_flops
from jaxmodels.generation.api import CallArguments, prepare_call
from jaxmodels.parameters import abstract, flatten, unflatten
from pallas_kernels import Mask, attention
from pallas_kernels.tpu.tiles import full_row_tilings

ONE = 2 * 3 * 4 * 5  # of [3,4] @ [4,5]
A, B, SQUARE = jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((6, 6))


def flops_of(function, *arguments, **options) -> float:
    return product_flops(jax.make_jaxpr(function)(*arguments).jaxpr, **{"whole": True, **options})


def test_a_product_takes_two_flops_per_term():
    assert flops_of(jnp.matmul, A, B) == ONE
    assert flops_of(jax.jit(jnp.matmul), A, B) == ONE
    assert flops_of(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5))) == 7 * ONE
    assert flops_of(lambda a: jnp.sin(a).sum(), A) == 0


def test_a_gradient_has_two_products_per_product():
    def loss(a, b):
        return jnp.square(a @ b).sum()

    assert flops_of(jax.grad(loss, (0, 1)), A, B) == 3 * ONE


def test_products_without_a_use_do_not_count():
    """The gradient of a sum does not need it, and rematerialisation leaves such products in a trace."""
    assert flops_of(jax.grad(lambda a: (a @ B).sum()), A) == ONE


def test_every_iteration_of_a_loop_counts():
    def scanned(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=9)[0]

    def unknown(x, stop):
        return jax.lax.while_loop(lambda c: c[1] < stop, lambda c: (scanned(c[0]), c[1] + 1), (x, 0))

    def nested(x, stop):
        return jax.lax.while_loop(lambda c: c[1] < stop, lambda c: (unknown(c[0], 3)[0], c[1] + 1), (x, 0))

    once = 2 * 6**3
    assert flops_of(scanned, SQUARE) == 9 * once and flops_of(scanned, SQUARE, whole=False) == once
    assert flops_of(unknown, SQUARE, 4, turns=5) == 45 * once and flops_of(unknown, SQUARE, 4, turns=0) == 0
    assert flops_of(unknown, SQUARE, 4, whole=False, turns=5) == once
    assert flops_of(nested, SQUARE, 4, turns=5) == 45 * once, "only the outer loop is the decoding loop"


def test_the_most_expensive_branch_counts():
    def branches(flag, a, b):
        return jax.lax.cond(flag, lambda a, b: a @ b, lambda a, b: a @ b @ jnp.ones((5, 5)), a, b)

    assert flops_of(branches, True, A, B) == ONE + 2 * 3 * 5 * 5


def test_the_body_of_a_shard_map_counts_on_every_device():
    mesh = sharding.make_mesh({"data": 4, "model": 2})

    def each(a, b):
        return jax.shard_map(
            jnp.matmul, mesh=mesh, in_specs=(P("data"), P(None, "model")), out_specs=P("data", "model")
        )(a, b)

    assert flops_of(each, jnp.ones((8, 4)), jnp.ones((4, 6))) == 2 * 8 * 4 * 6


@pytest.mark.parametrize("causal", [False, True])
def test_products_inside_a_kernel_count(causal):
    """Attention has two products of queries, keys and width; causal attention only those of the visible tiles."""
    q = jnp.ones((2, 1024, 3, 64), jnp.bfloat16)

    def attend(q):
        return attention(q, q, q, mask=Mask(causal=causal), implementation="pallas_tpu")

    whole = 2 * 2 * 2 * 3 * 1024 * 1024 * 64
    tiles = 1024 // full_row_tilings(64).forward.queries  # rows of tiles, each as long as its last query sees
    flops = flops_of(attend, q)
    assert flops_of(attend, q, whole=False) == 0, "the kernel declares nothing to the compiler"
    assert flops == (whole * (tiles + 1) / (2 * tiles) if causal else whole) and tiles > 1


@pytest.mark.parametrize("length", [1024, 4096])
def test_grouped_queries_and_the_sections_of_long_rows_count(length):
    """Ten sixteenths of all pairs, for every query head; the backward pass has five products for two."""
    q, k = (jnp.ones((1, length, heads, 128), jnp.bfloat16) for heads in (4, 2))

    def attend(q, k):
        return attention(q, k, k, mask=Mask(causal=True), implementation="pallas_tpu").sum()

    whole = 2 * 2 * 4 * length * length * 128
    forward, both = flops_of(attend, q, k), flops_of(jax.grad(attend, (0, 1)), q, k)
    assert 0.5 * whole < forward < 0.63 * whole
    assert both - forward == pytest.approx(2.5 * forward, rel=0.1)


def generation(name: str, **config) -> tuple:
    model, _ = tiny(name, bos_token_id=1, eos_token_id=2, pad_token_id=0, **config)
    ids = np.ones((1, 5), np.int32)
    options, place = {"max_new_tokens": 4}, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return model, prepare_call(model, abstract(model), ids, ids, options, CallArguments()).program.trace(place)


def read(name: str, **config) -> tuple[dict[str, bool], float]:
    """Returns for each parameter whether every token reads all of it, and the FLOPs of a token."""
    model, traced = generation(name, **config)
    body, flags = decoding_loop(traced.jaxpr.jaxpr)
    names = jax.tree.leaves(unflatten({path: path for path in flatten(abstract(model))}))
    return dict(zip(names, flags, strict=False)), product_flops(body, whole=True)


def test_a_token_of_gpt2_reads_all_weights_except_positions():
    flags, flops = read("GPT2LMHeadModel")
    assert {name for name, whole in flags.items() if not whole} == {"transformer/wpe/embedding"}
    # All matrices of two layers and the head, and keys and values of 64 slots.
    width = 32
    assert flops == 2 * (2 * (12 * width**2 + 2 * 64 * width) + 67 * width)


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_of_t5_reads_the_decoder_and_the_embedding_only_if_tied(tied):
    flags, _ = read("T5ForConditionalGeneration", tie_word_embeddings=tied)
    unread = {name for name, whole in flags.items() if not whole}
    assert ("shared/embedding" in unread) is not tied
    assert all("encoder" in name or "shared" in name or "cross" in name or "bias" in name for name in unread), unread
    assert all(name in unread for name in flags if name.startswith("encoder/"))

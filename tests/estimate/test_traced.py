"""Operations of matrix products are counted in every turn of a loop and step of a kernel, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.tiny import tiny

from jaxmodels import sharding
from jaxmodels.estimate.traced import decoding_loop, product_flops
from jaxmodels.generation.call import Extras, call
from jaxmodels.parameters import abstract, flatten, unflatten
from pallas_kernels import Mask, attention
from pallas_kernels.tpu.blocks import short_blocks

ONE = 2 * 3 * 4 * 5  # of [3,4] @ [4,5]
A, B, SQUARE = jnp.ones((3, 4)), jnp.ones((4, 5)), jnp.ones((6, 6))


def counted(function, *arguments, **options) -> float:
    return product_flops(jax.make_jaxpr(function)(*arguments).jaxpr, **{"whole": True, **options})


def test_a_product_is_two_operations_for_each_term():
    assert counted(jnp.matmul, A, B) == ONE
    assert counted(jax.jit(jnp.matmul), A, B) == ONE
    assert counted(lambda a, b: jnp.einsum("bij,bjk->bik", a, b), jnp.ones((7, 3, 4)), jnp.ones((7, 4, 5))) == 7 * ONE
    assert counted(lambda a: jnp.sin(a).sum(), A) == 0


def test_a_gradient_has_two_products_for_one():
    def loss(a, b):
        return (a @ b).sum()

    assert counted(jax.grad(loss, (0, 1)), A, B) == 3 * ONE


def test_turns_of_a_loop_are_counted_each():
    def scanned(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, None, length=9)[0]

    def unknown(x, stop):
        return jax.lax.while_loop(lambda c: c[1] < stop, lambda c: (scanned(c[0]), c[1] + 1), (x, 0))

    def nested(x, stop):
        return jax.lax.while_loop(lambda c: c[1] < stop, lambda c: (unknown(c[0], 3)[0], c[1] + 1), (x, 0))

    once = 2 * 6**3
    assert counted(scanned, SQUARE) == 9 * once and counted(scanned, SQUARE, whole=False) == once
    assert counted(unknown, SQUARE, 4, turns=5) == 45 * once and counted(unknown, SQUARE, 4, turns=0) == 0
    assert counted(unknown, SQUARE, 4, whole=False, turns=5) == once
    assert counted(nested, SQUARE, 4, turns=5) == 45 * once, "only the outer loop is the decoding loop"


def test_of_branches_the_dearest_counts():
    def branches(flag, a, b):
        return jax.lax.cond(flag, lambda a, b: a @ b, lambda a, b: a @ b @ jnp.ones((5, 5)), a, b)

    assert counted(branches, True, A, B) == ONE + 2 * 3 * 5 * 5


def test_what_runs_on_every_shard_counts_on_all():
    mesh = sharding.make_mesh({"data": 4, "model": 2})

    def each(a, b):
        return jax.shard_map(
            jnp.matmul, mesh=mesh, in_specs=(P("data"), P(None, "model")), out_specs=P("data", "model")
        )(a, b)

    assert counted(each, jnp.ones((8, 4)), jnp.ones((4, 6))) == 2 * 8 * 4 * 6


@pytest.mark.parametrize("causal", [False, True])
def test_the_products_inside_a_kernel_are_counted(causal):
    """Of attention two products of queries, keys and width; of causal attention those of the tiles that are visible."""
    q = jnp.ones((2, 1024, 3, 64), jnp.bfloat16)

    def attend(q):
        return attention(q, q, q, mask=Mask(causal=causal), implementation="pallas_tpu")

    whole = 2 * 2 * 2 * 3 * 1024 * 1024 * 64
    rows = 1024 // short_blocks(64).forward.queries  # of tiles, each as long as its last query sees
    count = counted(attend, q)
    assert counted(attend, q, whole=False) == 0, "the kernel declares nothing to the compiler"
    assert count == (whole * (rows + 1) / (2 * rows) if causal else whole) and rows > 1


def generation(name: str, **config) -> tuple:
    model, _ = tiny(name, bos_token_id=1, eos_token_id=2, pad_token_id=0, **config)
    ids = np.ones((1, 5), np.int32)
    options, place = {"max_new_tokens": 4}, jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return model, call(model, abstract(model), ids, ids, options, Extras(), lambda ready: ready.program.trace(place))


def read(name: str, **config) -> tuple[dict[str, bool], float]:
    """By parameter, whether every token reads it whole; and the operations of a token."""
    model, traced = generation(name, **config)
    body, flags = decoding_loop(traced.jaxpr.jaxpr)
    names = jax.tree.leaves(unflatten({path: path for path in flatten(abstract(model))}))
    return dict(zip(names, flags, strict=False)), product_flops(body, whole=True)


def test_a_token_of_gpt2_reads_all_weights_but_the_positions():
    flags, flops = read("GPT2LMHeadModel")
    assert {name for name, whole in flags.items() if not whole} == {"transformer/wpe/embedding"}
    # All matrices of two layers, and the head; keys and values of 64 slots besides.
    width = 32
    assert flops == 2 * (2 * (12 * width**2 + 2 * 64 * width) + 67 * width)


@pytest.mark.parametrize("tied", [False, True])
def test_a_token_of_t5_reads_its_decoder_and_a_table_only_for_the_head(tied):
    flags, _ = read("T5ForConditionalGeneration", tie_word_embeddings=tied)
    unread = {name for name, whole in flags.items() if not whole}
    assert ("shared/embedding" in unread) is not tied
    assert all("encoder" in name or "shared" in name or "cross" in name or "bias" in name for name in unread), unread
    assert all(name in unread for name in flags if name.startswith("encoder/"))

"""LED and the reference's, and what of the reference's outputs means something (docs/parity.md, L8)."""

import numpy as np
from support.reference import Pair, compare, reference_output

ATTENTIONS, WIDE = ("encoder_attentions", "attentions"), ("encoder_global_attentions", "global_attentions")


def real_globals(global_mask, mask=None) -> np.ndarray:
    """bool [B,S]: global tokens that are no padding."""
    flags = np.asarray(global_mask) == 1
    return flags if mask is None else flags & (np.asarray(mask) == 1)


def expected_of(pair: Pair, **inputs) -> dict:
    """The reference's output; in `global_attentions` the columns of global tokens that a row does not have are zero
    (the reference leaves a uniform row there)."""
    expected = dict(reference_output(pair, **inputs))
    counts = real_globals(inputs["global_attention_mask"], inputs.get("attention_mask")).sum(axis=1)
    for name in WIDE:
        if name in expected:
            there = np.arange(counts.max()) < counts[:, None]
            clear = lambda a, there=there: a * a.new_tensor(there[:, None, None].tolist())  # noqa: E731
            expected[name] = tuple(clear(layer) for layer in expected[name])
    return expected


def without_spare_slots(out, slots: int, used: int) -> dict:
    """Our output as if it had been made with as many slots as there are global tokens; spare ones hold nothing."""
    fields = dict(out.items())
    for name in (*ATTENTIONS, *WIDE):
        if name in fields:
            layers = [np.asarray(layer) for layer in fields[name]]
            assert not any(layer[..., used:slots].any() for layer in layers), f"{name}: a spare slot holds something"
            fields[name] = [np.delete(layer, np.s_[used:slots], axis=-1) for layer in layers]
            if name in WIDE and not used:
                del fields[name]
    return fields


def agree_on_globals(pair: Pair, run, slots: int, inputs: dict) -> None:
    """`run(inputs)`, made with `slots`, gives every number of the reference."""
    used = real_globals(inputs["global_attention_mask"], inputs.get("attention_mask")).sum(axis=1).max()
    expected = expected_of(pair, **inputs, output_hidden_states=True, output_attentions=True)
    compare(without_spare_slots(run(inputs), slots, int(used)), expected)

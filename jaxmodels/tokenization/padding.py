"""Padding of fields that are already ids: what a data loader does with examples encoded one by one."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxmodels.tokenization.encoding import BatchEncoding, stack


def pad_fields(
    encoded_inputs: Mapping | Sequence[Mapping],
    *,
    max_length: int | None,
    strategy: str | None,
    multiple: int | None,
    side: str,
    fill: Mapping[str, int],
    return_attention_mask: bool,
    return_tensors: str | None,
) -> BatchEncoding:
    """Pad the fields that `fill` gives a padding value, and stack every field.

    encoded_inputs: one example {name: [T]}, a batch {name: [B, T] or ragged rows}, or a list of examples. A missing
    attention_mask is made of ones. Fields without a padding value (labels, ...) stay as they are.
    strategy: "longest", "max_length" or None.
    """
    if not isinstance(encoded_inputs, Mapping):
        examples = list(encoded_inputs)
        encoded_inputs = {name: [example[name] for example in examples] for name in (examples[0] if examples else fill)}
    if "input_ids" not in encoded_inputs:
        raise ValueError(f"pad needs the field input_ids, got {list(encoded_inputs)}")
    ids = encoded_inputs["input_ids"]
    single = len(ids) > 0 and np.ndim(ids[0]) == 0
    batch = {name: [value] if single else list(value) for name, value in encoded_inputs.items()}
    sizes = {name: len(rows) for name, rows in batch.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"the fields have different numbers of rows: {sizes}")
    if return_attention_mask:
        batch.setdefault(
            "attention_mask",
            [np.ones(len(row), np.int32) for row in batch["input_ids"]],
        )
    else:
        batch.pop("attention_mask", None)

    length = max((len(row) for row in batch["input_ids"]), default=0) if strategy == "longest" else max_length
    if strategy and multiple:
        length = -(-length // multiple) * multiple
    for name in batch.keys() & fill.keys() if strategy else ():
        batch[name] = [_pad_row(row, length, side, fill[name]) for row in batch[name]]
    keep_batch_axis = not single or return_tensors is not None
    stacked = {name: stack(rows, return_tensors) for name, rows in batch.items()}
    return BatchEncoding(stacked if keep_batch_axis else {name: rows[0] for name, rows in stacked.items()})


def _pad_row(row, length: int, side: str, value: int) -> np.ndarray:
    missing = max(0, length - len(row))
    row = np.asarray(row, np.int32)
    return np.pad(row, (missing, 0) if side == "left" else (0, missing), constant_values=value)

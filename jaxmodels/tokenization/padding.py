"""Padding of fields that are already ids: what a data loader does with examples encoded one by one."""

from collections.abc import Mapping, Sequence

import numpy as np

from jaxmodels.tokenization.encoding import BatchEncoding, stack
from jaxmodels.wording import brief


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
        encoded_inputs = _by_field(encoded_inputs, fill)
    if "input_ids" not in encoded_inputs:
        raise ValueError(f"pad needs the field input_ids, got {brief(list(encoded_inputs))}")
    for name, value in encoded_inputs.items():
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or np.shape(value[:0]) == ():
            raise ValueError(f"{name} must be a row of numbers or a list of rows, got {brief(value)}")
    ids = encoded_inputs["input_ids"]
    single = len(ids) > 0 and not hasattr(ids[0], "__len__")
    batch = {
        name: [_row(name, each, whole=name in fill) for each in ([value] if single else value)]
        for name, value in encoded_inputs.items()
    }
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


def _by_field(examples, names) -> dict[str, list]:
    """Examples {name: [T]} as a batch {name: rows}."""
    expected = "pad takes a dict of fields, or a list of such dicts with the same fields"
    if not isinstance(examples, (list, tuple)) or not all(isinstance(each, Mapping) for each in examples):
        raise ValueError(f"{expected}, got {brief(examples)}")
    for example in examples:
        if example.keys() != examples[0].keys():
            raise ValueError(f"{expected}, got {brief([list(each) for each in examples])}")
    return {name: [example[name] for example in examples] for name in (examples[0] if examples else names)}


def _row(name: str, values, whole: bool) -> np.ndarray:
    """A row's numbers as int32, or as float32 where they are not `whole` and need not be."""
    try:
        row = np.asarray(values)
    except ValueError:  # lists of different lengths
        row = np.asarray(None)
    if row.dtype.kind == "f" and not (whole and row.size):
        return row.astype(np.float32 if row.size else np.int32)
    if (
        whole
        and row.ndim != 1
        or row.dtype.kind not in "biu"
        or row.size
        and not -(2**31) <= row.min() <= row.max() < 2**31
    ):
        raise ValueError(f"{name} must hold numbers within int32, got {brief(values)}")
    return row.astype(np.int32)


def _pad_row(row, length: int, side: str, value: int) -> np.ndarray:
    missing = max(0, length - len(row))
    return np.pad(row, (missing, 0) if side == "left" else (0, missing), constant_values=value)

"""Inputs and labels for BART and LED; pad, eos and decoder start token are 1, 2 and 2."""

import numpy as np

# Padding on the right in the encoder; every decoder position attends to something.
PADDED = np.array([[5, 6, 7, 8, 1, 1], [9, 10, 11, 12, 13, 14]])
MASK = (PADDED != 1).astype(int)
DECODED = np.array([[2, 21, 22, 23, 1], [2, 31, 32, 33, 34]])
DECODED_MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


def batch(source: np.ndarray, mask: np.ndarray, decoded: np.ndarray) -> dict[str, np.ndarray]:
    """Return the inputs of an encoder-decoder, int [2,S] and [2,5]."""
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    return dict(zip(names, (source, mask, decoded, DECODED_MASK), strict=True))


BATCH = batch(PADDED, MASK, DECODED)
LABELS = np.array([[21, 22, -100, 24, 2], [31, 32, 33, 2, -100]])
# Head masks of the encoder (2 layers with 4 heads) and of the decoder (2 layers with 8 heads).
HEADS = np.array([[1.0, 0.0, 0.5, 2.0], [0.0, 1.0, 1.0, 0.5]], np.float32)
DECODER_HEADS = np.concatenate([HEADS, HEADS[::-1]], axis=1)

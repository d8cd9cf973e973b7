"""What the tests of BART and LED read and write; pad, eos and the decoder's start are 1, 2 and 2."""

import numpy as np

# Right padding in the encoder; none of the decoder's rows sees nothing.
PADDED = np.array([[5, 6, 7, 8, 1, 1], [9, 10, 11, 12, 13, 14]])
MASK = (PADDED != 1).astype(int)
DECODED = np.array([[2, 21, 22, 23, 1], [2, 31, 32, 33, 34]])
DECODED_MASK = np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]])


def batch(source: np.ndarray, mask: np.ndarray, decoded: np.ndarray) -> dict[str, np.ndarray]:
    """What an encoder-decoder reads, int [2,S] and [2,5]."""
    names = ("input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask")
    return dict(zip(names, (source, mask, decoded, DECODED_MASK), strict=True))


BATCH = batch(PADDED, MASK, DECODED)
LABELS = np.array([[21, 22, -100, 24, 2], [31, 32, 33, 2, -100]])
# Factors of the encoder's 2 layers of 4 heads, and of the decoder's 2 layers of 8.
HEADS = np.array([[1.0, 0.0, 0.5, 2.0], [0.0, 1.0, 1.0, 0.5]], np.float32)
DECODER_HEADS = np.concatenate([HEADS, HEADS[::-1]], axis=1)

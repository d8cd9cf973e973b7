"""Kernels for GPUs, written with Pallas' Triton backend.

That backend is deprecated since JAX 0.11 in favour of Mosaic GPU. It is used in the meantime: it runs in interpret
mode, compiles ahead of time without a GPU, and one design supports all masks, biases and lengths.

A kernel reads queries, keys and values in the layout of the API, [B, T, H, K]: the block of one head is K contiguous
values per token with a stride between tokens, which a GPU loads as well as a contiguous block, so nothing is transposed
before or after a kernel.
"""

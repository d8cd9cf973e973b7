"""Kernels for GPUs, written with Pallas' Triton back-end.

That back-end is deprecated since JAX 0.11 in favour of Mosaic GPU. It is used as a bridge: it runs in interpret mode,
compiles for a GPU that is not there, and one design takes masks, biases and lengths of every kind.

A kernel reads queries, keys and values as the door has them, [B, T, H, K]: a block of one head is rows of K values at a
stride, which a GPU loads as well as a contiguous block, so nothing is transposed on the way in or out.
"""

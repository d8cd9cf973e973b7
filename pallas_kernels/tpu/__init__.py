"""Mosaic kernels for TPUs.

All of them hold a score tile with its keys on sublanes and its queries on lanes, and take every operand with the length
as the minor axis, [B, H, K, T]. XLA lays the projections out that way itself, a head of width 64 then fills whole
registers, the statistics of a query are a lane vector, and of all products only those of the backward pass with respect
to keys and values contract over lanes.
"""

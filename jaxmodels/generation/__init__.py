"""Decoding: one compiled loop over a step function."""

from jaxmodels.generation.generate import GenerateOutput, generate

__all__ = ["GenerateOutput", "generate"]

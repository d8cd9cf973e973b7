"""Checkpoint files: safetensors, torch's .bin and .pt (without torch), and Flax's msgpack.

Opening a file reads only its header; each tensor is then read on demand, directly into an existing array.
"""

from .checkpoint import open_folder, open_tensors
from .entry import TensorEntry
from .validation import TensorFileError

__all__ = ["TensorEntry", "TensorFileError", "open_folder", "open_tensors"]

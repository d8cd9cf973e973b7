"""Readers of checkpoint files: safetensors, torch's .bin and .pt (without torch), Flax's msgpack.

Opening a file reads its directory; each tensor is then read by itself, straight into place. `write` writes safetensors.
"""

from .checkpoint import open_folder, open_tensors
from .entry import TensorEntry
from .validation import TensorFileError

__all__ = ["TensorEntry", "TensorFileError", "open_folder", "open_tensors"]

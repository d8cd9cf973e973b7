"""Readers of checkpoint files: safetensors, torch's .bin and .pt (without torch), Flax's msgpack.

Opening a file reads its directory; each tensor is then read by itself, straight into place. `write` writes safetensors.
"""

from .entry import TensorEntry
from .errors import TensorFileError
from .folder import open_folder
from .open_file import open_tensors

__all__ = ["TensorEntry", "TensorFileError", "open_folder", "open_tensors"]

"""Which files of a folder a save may write: the sets that belong together, by name.

A save of some sets replaces all of their files: it writes some of them, and those that it did not write are gone. What
may be written and removed is said here, in code, and never by a file of the folder.
"""

from collections.abc import Iterable
from fnmatch import fnmatchcase

FILE_SETS = {
    "config": ("config.json", "generation_config.json"),
    "generation config": ("generation_config.json",),
    "weights": ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"),
    # Other programs' files of the same weights, which a conversion replaces by those above.
    "former weights": (
        *("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
        *("flax_model.msgpack", "flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"),
        *("tf_model.h5", "tf_model.h5.index.json", "tf_model-*-of-*.h5"),
    ),
    "tokenizer": (
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
        *("chat_template.jinja", "vocab.json", "encoder.json", "merges.txt", "vocab.bpe", "vocab.txt", "spiece.model"),
    ),
    "index": ("dense_index.json", "embeddings-*.safetensors"),
    "rows": ("embeddings.safetensors",),
    "passages": ("passages.arrow",),
}


def is_plain(name: object) -> bool:
    """Whether it names a file in a folder itself, and nothing that lies elsewhere."""
    if not isinstance(name, str) or len(name.encode(errors="replace")) > 255:
        return False
    return name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}


def belongs(name: str, sets: Iterable[str]) -> bool:
    """Whether a plain name is one of a file of these sets."""
    return any(fnmatchcase(name, pattern) for each in sets for pattern in FILE_SETS[each])

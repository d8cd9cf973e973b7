"""`python -m benchmarks.peers.ctranslate2_convert FOLDER OUT`: a GPT-2 folder in CTranslate2's format.

The weights are random and have no tokenizer, which the converter asks for: the numbers of the ids serve as tokens.
"""

import json
import sys
from pathlib import Path

from ctranslate2.converters import TransformersConverter


class Numbers:
    """A vocabulary "0", "1", ... with the interface that the converter uses."""

    bos_token = eos_token = unk_token = "0"

    def __init__(self, size: int):
        self.size = size

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self.size)}


class Converter(TransformersConverter):
    def load_tokenizer(self, tokenizer_class, folder, **kwargs):
        return Numbers(json.loads((Path(folder) / "config.json").read_text())["vocab_size"])


if __name__ == "__main__":
    Converter(sys.argv[1]).convert(sys.argv[2], quantization="float32", force=True)

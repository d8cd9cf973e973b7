"""Train tests/testdata/tokenizers/llama on texts of tests/testdata, since Llama's own vocabulary has no free licence.

    python tests/tools/train_vocabulary.py [OUT]

SentencePiece's settings are those of Llama 2's tokenizer.model, and transformers converts it to the tokenizer.json that
is published beside it. The same texts give the same bytes.
"""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

TESTDATA = Path(__file__).resolve().parents[1] / "testdata"
PIECES = 2_000
SETTINGS = {
    "model_type": "bpe", "byte_fallback": True, "split_digits": True, "allow_whitespace_only_pieces": True,
    "normalization_rule_name": "identity", "remove_extra_whitespaces": False, "character_coverage": 0.999,
    "unk_surface": " \u2047 ", "num_threads": 1, "minloglevel": 2,
}  # fmt: skip


def main(out: Path = TESTDATA / "tokenizers") -> None:
    import transformers

    folder = out / "llama"
    folder.mkdir(parents=True, exist_ok=True)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines(), model_writer=written, vocab_size=PIECES, **SETTINGS
    )
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    options = {"legacy": True, "add_prefix_space": True}
    tokenizer = transformers.LlamaTokenizerFast(str(folder / "tokenizer.model"), **options)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    text = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")


def lines() -> Iterator[str]:
    """Plays, articles and, for pieces of several spaces, indented lines."""
    for name in ("tinyshakespeare.txt", "wikitext-2/valid.txt"):
        for i, line in enumerate((TESTDATA / "text" / name).read_text(encoding="utf-8").splitlines()):
            if line.strip():
                yield line if i % 5 else "    " * (i // 5 % 3) + line


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""Create the reduced vocabularies of tests/testdata/tokenizers from the published ones.

    python tests/tools/cut_vocabularies.py FULL [OUT]

FULL is a folder with gpt2, roberta-base, bert-base-uncased and t5, named and filled as tests/testdata/tokenizers is.
The same input gives the same bytes. A cut tokenizer is a whole one: special tokens, all bytes, both of its files alike.
"""

import json
import sys
from pathlib import Path

from sentencepiece import sentencepiece_model_pb2

MERGES = 3_000  # of GPT-2's and RoBERTa's 50,000: the first, which are the most frequent
WORDS = 8_000  # of BERT's 30,522 lines, with their ids
PIECES = 4_000  # of T5's 32,000
OUT = Path(__file__).resolve().parents[1] / "testdata" / "tokenizers"


def main(full: Path, out: Path = OUT) -> None:
    for name, cut in (("gpt2", gpt2), ("roberta-base", roberta), ("bert-base-uncased", bert), ("t5", t5)):
        (out / name).mkdir(parents=True, exist_ok=True)
        cut(full / name, out / name)


def gpt2(full: Path, out: Path) -> None:
    vocab = first_merges(full, out, "encoder.json", "vocab.bpe", keep={"<|endoftext|>"})
    bpe_state(full, out, vocab)


def roberta(full: Path, out: Path) -> None:
    special = {"<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"}
    vocab = first_merges(full, out, "vocab.json", "merges.txt", keep=special | {f"madeupword000{i}" for i in range(3)})
    bpe_state(full, out, vocab)


def first_merges(full: Path, out: Path, vocab_name: str, merges_name: str, keep: set[str]) -> dict[str, int]:
    """Write some merges, the single bytes and the resulting tokens, in the original order with consecutive ids."""
    version, *merges = (full / merges_name).read_text(encoding="utf-8").split("\n")[: MERGES + 1]
    made = {merge.replace(" ", "") for merge in merges} | keep
    tokens = json.loads((full / vocab_name).read_text(encoding="utf-8"))
    tokens = [token for token in sorted(tokens, key=tokens.get) if len(token) == 1 or token in made]
    vocab = {token: i for i, token in enumerate(tokens)}
    (out / merges_name).write_text("\n".join([version, *merges]) + "\n", encoding="utf-8")
    write(out / vocab_name, vocab)
    return vocab


def bpe_state(full: Path, out: Path, vocab: dict[str, int]) -> None:
    state = read_state(full, vocab)
    state["model"] |= {"vocab": vocab, "merges": state["model"]["merges"][:MERGES]}
    write(out / "tokenizer.json", state)


def bert(full: Path, out: Path) -> None:
    """Keep the first lines with their ids, and append all single characters, to cover all scripts."""
    lines = (full / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    kept = lines[:WORDS] + [line for line in lines[WORDS:] if len(line.removeprefix("##")) == 1]
    (out / "vocab.txt").write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    vocab = {token: i for i, token in enumerate(kept)}
    state = read_state(full, vocab)
    state["model"]["vocab"] = vocab
    write(out / "tokenizer.json", state)


def t5(full: Path, out: Path) -> None:
    """Keep the first pieces and all single characters; the 100 sentinels follow, as in the full vocabulary."""
    model = sentencepiece_model_pb2.ModelProto.FromString((full / "spiece.model").read_bytes())
    pieces = [piece for i, piece in enumerate(model.pieces) if i < PIECES or len(piece.piece.lstrip("\u2581")) <= 1]
    kept = {piece.piece for piece in pieces}
    del model.pieces[:]
    model.pieces.extend(pieces)
    model.trainer_spec.vocab_size = len(pieces)
    (out / "spiece.model").write_bytes(model.SerializeToString(deterministic=True))
    state = json.loads((full / "tokenizer.json").read_text(encoding="utf-8"))
    entries = state["model"]["vocab"]
    sentinels = [token for token, _ in entries if token.startswith("<extra_id_")]
    entries = [entry for entry in entries if entry[0] in kept] + [e for e in entries if e[0] in sentinels]
    state = read_state(full, {token: i for i, (token, _) in enumerate(entries)})
    state["model"]["vocab"] = entries
    write(out / "tokenizer.json", state)


def read_state(full: Path, vocab: dict[str, int]) -> dict:
    """Change the ids of the added tokens in a tokenizer.json."""
    state = json.loads((full / "tokenizer.json").read_text(encoding="utf-8"))
    for token in state["added_tokens"]:
        token["id"] = vocab[token["content"]]
    return state


def write(path: Path, content) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3) or not (Path(sys.argv[1]) / "t5" / "spiece.model").is_file():
        sys.exit("expected a folder with gpt2, roberta-base, bert-base-uncased and t5, and perhaps where to write")
    main(*map(Path, sys.argv[1:]))

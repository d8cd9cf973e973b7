"""Save tokenizers of every family with transformers 5, and record its ids for texts and for our folders.

    python tests/tools/tokenizers5.py record VOCABULARIES OUT
    python tests/tools/tokenizers5.py read FOLDERS OUT

With transformers 5, as `transformers5.run` runs it. `record` writes a JSON object: for each tokenizer the folder of its
vocabulary, tokenizer_config.json, tokenizer.json without its model and an unchanged normalizer, ids, decoded texts and
settings; tests/testdata/tokenizers5.json is that of testdata's vocabularies. `read` loads each folder in FOLDERS and
writes the same of it.
"""

import json
import sys
import tempfile
from pathlib import Path

TEXTS = ["Hello world, it's 1 test .", "  two spaces é 中文 ", "low <mask> [SEP] </s> <a>b"]
TEXTS += ["<extra_id_0> new word <|endoftext|>"]
SOURCES = {"GPT2Tokenizer": "gpt2", "RobertaTokenizer": "roberta-base", "BartTokenizer": "roberta-base"}
SOURCES |= {"LEDTokenizer": "roberta-base", "BertTokenizer": "bert-base-uncased", "T5Tokenizer": "t5"}
SOURCES |= {"LlamaTokenizer": "llama"}
SOURCES |= {f"DPR{part}Tokenizer": "bert-base-uncased" for part in ("QuestionEncoder", "ContextEncoder", "Reader")}
MORE = ("GPT2Tokenizer", "RobertaTokenizer", "T5Tokenizer", "LlamaTokenizer", "DPRReaderTokenizer")
OPTIONS = {"padding_side": "left", "model_max_length": 77, "chat_template": "{{ messages }}"}


def tokenizers(vocabularies: Path):
    """Yield (name, folder of the vocabulary, tokenizer): plain ones, with added tokens, and of unknown families."""
    import transformers

    for name, folder in SOURCES.items():
        cls = getattr(transformers, name)
        yield name, folder, cls.from_pretrained(vocabularies / folder)
        if name not in MORE:
            continue
        more = cls.from_pretrained(vocabularies / folder, extra_special_tokens={"image_token": "<image>"}, **OPTIONS)
        more.add_special_tokens({"pad_token": "<padding>"})
        more.add_tokens(["new word", transformers.AddedToken("q", lstrip=True)])
        if name != "T5Tokenizer":
            more.add_special_tokens({"extra_special_tokens": ["<a>", "<b>"]})
        yield f"{name}, more", folder, more
    for folder in sorted(set(SOURCES.values())):
        yield (
            f"TokenizersBackend of {folder}",
            folder,
            transformers.PreTrainedTokenizerFast.from_pretrained(vocabularies / folder),
        )


def record(vocabularies: Path, out: Path) -> None:
    found = {}
    for name, folder, tokenizer in tokenizers(vocabularies):
        with tempfile.TemporaryDirectory() as saved:
            tokenizer.save_pretrained(saved)
            files = {path.name: path.read_text(encoding="utf-8") for path in Path(saved).iterdir()}
        parts = json.loads(files.pop("tokenizer.json"))
        config = json.loads(files.pop("tokenizer_config.json"))
        del parts["model"]  # as in the vocabulary's folder, and most normalizers
        source = json.loads((vocabularies / folder / "tokenizer.json").read_text(encoding="utf-8"))
        if parts["normalizer"] == source["normalizer"]:
            del parts["normalizer"]
        found[name] = {
            "vocabulary": folder,
            "tokenizer_config.json": config,
            "tokenizer.json": parts,
            "files": files,
            **said(tokenizer),
        }
    out.write_text("{" + ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in found.items()) + "}\n")


def said(tokenizer) -> dict:
    rows = [tokenizer.encode(text) for text in TEXTS]
    settings = {name: getattr(tokenizer, name) for name in ("padding_side", "truncation_side", "model_max_length")}
    return {
        "texts": TEXTS,
        "ids": rows,
        "pair": tokenizer.encode(TEXTS[0], TEXTS[1]),
        "decoded": [tokenizer.decode(row) for row in rows],
        "special": tokenizer.all_special_tokens,
        "settings": settings,
    }


def read(folders: Path, out: Path) -> None:
    import transformers

    loaded = {folder.name: transformers.AutoTokenizer.from_pretrained(folder) for folder in sorted(folders.iterdir())}
    out.write_text(json.dumps({name: said(tokenizer) for name, tokenizer in loaded.items()}))


if __name__ == "__main__":
    {"record": record, "read": read}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))

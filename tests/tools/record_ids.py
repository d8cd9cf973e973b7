"""Write tests/testdata/ids.json: token ids of difficult texts by the reference tokenizers.

    python tests/tools/record_ids.py

`tests/tokenization/test_recorded_ids.py` compares with it where transformers is not installed. BERT's ids are those of
the slow tokenizer, which `BertTokenizer` follows, and the others' those of the fast ones.
"""

import json
import sys
from pathlib import Path

import transformers

TESTS = Path(__file__).resolve().parents[1]
FOLDER = TESTS / "testdata" / "tokenizers"
OUT = TESTS / "testdata" / "ids.json"


def references() -> dict:
    json_of = lambda name: str(FOLDER / name / "tokenizer.json")  # noqa: E731
    return {
        "gpt2": transformers.GPT2TokenizerFast(tokenizer_file=json_of("gpt2")),
        "roberta-base": transformers.RobertaTokenizerFast(tokenizer_file=json_of("roberta-base")),
        "bert-base-uncased": transformers.BertTokenizer(str(FOLDER / "bert-base-uncased" / "vocab.txt")),
        "t5": transformers.T5TokenizerFast(tokenizer_file=json_of("t5")),
        "llama": transformers.LlamaTokenizerFast(tokenizer_file=json_of("llama")),
    }


def main() -> None:
    sys.path.insert(0, str(TESTS))
    from support.hard_texts import HARD_TEXTS

    found = {
        name: {
            "texts": [[text, tokenizer.encode(text)] for text in HARD_TEXTS],
            "pair": tokenizer.encode("Hello world", "it's"),
        }
        for name, tokenizer in references().items()
    }
    lines = json.dumps(found, ensure_ascii=True).replace("]], ", "]],\n").replace("], [", "],\n[")
    OUT.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

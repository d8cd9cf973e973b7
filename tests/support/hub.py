"""A cache of the Hugging Face Hub with small stand-ins for the checkpoints that the documents name.

The stand-ins have the class and the tokenizer of the published checkpoint, with few and small layers, random parameters
and a reduced vocabulary.
"""

from collections.abc import Callable
from pathlib import Path

from support.full_data import TESTDATA
from support.tiny import random_params

import jaxmodels as jm

COMMIT = "0" * 40
TOKENIZERS = TESTDATA / "tokenizers"
_BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
_BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}


def write(cache: Path, name: str) -> None:
    """Writes the stand-in of a Hub id into the cache, as huggingface_hub lays it out.

    Raises:
      KeyError: there is no stand-in for the id.
    """
    make = STAND_INS[name]
    repository = cache / f"models--{name.replace('/', '--')}"
    if not repository.exists():
        make(repository / "snapshots" / COMMIT)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(COMMIT)


def _save(folder: Path, name: str, tokenizer, **config) -> None:
    cls = getattr(jm, name)
    tokenizer.save_pretrained(folder)
    model = cls(cls.config_class(vocab_size=len(tokenizer), **config))
    jm.save(folder, model, random_params(model))


def _gpt2(folder: Path) -> None:
    tokenizer = _tokenizer("gpt2", jm.GPT2Tokenizer)
    ids = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id}
    _save(folder, "GPT2LMHeadModel", tokenizer, n_positions=1024, n_embd=32, n_layer=2, n_head=4, **ids)


def _llama(folder: Path) -> None:
    tokenizer = _tokenizer("llama", jm.LlamaTokenizer)
    _save(folder, "LlamaForCausalLM", tokenizer, num_key_value_heads=2, max_position_embeddings=1024, **_BERT)


def _bert(name: str, cls) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        _save(folder, name, _tokenizer("bert-base-uncased", cls), max_position_embeddings=512, **_BERT)

    return make


def _roberta(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        tokenizer = _tokenizer("roberta-base", jm.RobertaTokenizer)
        _save(folder, name, tokenizer, max_position_embeddings=514, **_BERT)

    return make


def _bart(folder: Path) -> None:
    tokenizer = _tokenizer("roberta-base", jm.BartTokenizer)
    _save(folder, "BartForConditionalGeneration", tokenizer, max_position_embeddings=1024, **_BART)


def _led(folder: Path) -> None:
    tokenizer = _tokenizer("roberta-base", jm.LEDTokenizer)
    positions = {"max_encoder_position_embeddings": 16384, "max_decoder_position_embeddings": 1024}
    _save(folder, "LEDForConditionalGeneration", tokenizer, attention_window=8, **positions, **_BART)


def _t5(folder: Path) -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    _save(folder, "T5ForConditionalGeneration", _tokenizer("t5", jm.T5Tokenizer), **sizes)


def _rag(folder: Path) -> None:
    question = _tokenizer("bert-base-uncased", jm.DPRQuestionEncoderTokenizer)
    generator = _tokenizer("roberta-base", jm.BartTokenizer)
    config = jm.RagConfig.from_question_encoder_generator_configs(
        jm.DPRConfig(vocab_size=len(question), max_position_embeddings=512, **_BERT),
        jm.BartConfig(vocab_size=len(generator), max_position_embeddings=1024, **_BART),
        n_docs=2,
    )
    model = jm.RagTokenForGeneration(config)
    jm.RagTokenizer(question, generator).save_pretrained(folder)
    jm.save(folder, model, random_params(model))


def _tokenizer(name: str, cls):
    return cls.from_pretrained(TOKENIZERS / name)


# What writes each checkpoint.
STAND_INS: dict[str, Callable[[Path], None]] = {
    "openai-community/gpt2": _gpt2,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _llama,
    "google-bert/bert-base-uncased": _bert("BertForPreTraining", jm.BertTokenizer),
    "FacebookAI/roberta-base": _roberta("RobertaForMaskedLM"),
    "andreasmadsen/efficient_mlm_m0.40": _roberta("RobertaPreLayerNormForMaskedLM"),
    "facebook/dpr-question_encoder-single-nq-base": _bert("DPRQuestionEncoder", jm.DPRQuestionEncoderTokenizer),
    "facebook/dpr-ctx_encoder-single-nq-base": _bert("DPRContextEncoder", jm.DPRContextEncoderTokenizer),
    "facebook/dpr-reader-single-nq-base": _bert("DPRReader", jm.DPRReaderTokenizer),
    "facebook/bart-base": _bart,
    "google-t5/t5-small": _t5,
    "allenai/led-base-16384": _led,
    "facebook/rag-token-nq": _rag,
}

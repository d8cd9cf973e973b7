"""Train experiments/notebooks/checkpoints/capitals-rag, a RAG small enough for a repository that reads its documents.

    python tests/tools/train_checkpoints.py [OUT]

The generator learns to copy the answer out of a document: in training a country's capital and language are drawn at
random, so that nothing can be memorised. The encoder, one for questions and documents, learns to find the document of a
question. It takes two minutes of processor time. The other checkpoint there, shakespeare-gpt2, is of `jaxmodels run
gpt2_lm`: the README of the folder has the command.
"""

import sys
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxmodels as jm
from experiments.data import bpe, wordpiece
from jaxmodels import training

ROOT = Path(__file__).resolve().parents[2]
FACTS = """
Argentina Buenos Aires Spanish, Austria Vienna German, Brazil Brasilia Portuguese, Bulgaria Sofia Bulgarian,
Chile Santiago Spanish, China Beijing Mandarin, Colombia Bogota Spanish, Cuba Havana Spanish,
Czechia Prague Czech, Denmark Copenhagen Danish, Egypt Cairo Arabic, England London English,
Ethiopia Addis Ababa Amharic, Finland Helsinki Finnish, France Paris French, Germany Berlin German,
Ghana Accra English, Greece Athens Greek, Hungary Budapest Hungarian, Iceland Reykjavik Icelandic,
India Delhi Hindi, Indonesia Jakarta Indonesian, Iran Tehran Persian, Iraq Baghdad Arabic,
Ireland Dublin English, Israel Jerusalem Hebrew, Italy Rome Italian, Japan Tokyo Japanese,
Kenya Nairobi Swahili, Korea Seoul Korean, Latvia Riga Latvian, Lithuania Vilnius Lithuanian,
Mexico Mexico City Spanish, Morocco Rabat Arabic, Nepal Kathmandu Nepali, Norway Oslo Norwegian,
Peru Lima Spanish, Poland Warsaw Polish, Portugal Lisbon Portuguese, Romania Bucharest Romanian,
Russia Moscow Russian, Serbia Belgrade Serbian, Spain Madrid Spanish, Sweden Stockholm Swedish,
Thailand Bangkok Thai, Turkey Ankara Turkish, Ukraine Kyiv Ukrainian, Uruguay Montevideo Spanish,
Vietnam Hanoi Vietnamese
"""
ROWS = [row.split() for row in FACTS.replace("\n", " ").split(",")]
COUNTRIES, CAPITALS, LANGUAGES = zip(*((row[0], " ".join(row[1:-1]), row[-1]) for row in ROWS), strict=True)
# What is written of a country x: two forms each, in documents and in questions.
CAPITAL = ("The capital of {x} is {y}.", "{y} is the capital of {x}.")
LANGUAGE = ("The language of {x} is {y}.", "In {x} people speak {y}.")
ASK_CAPITAL = ("what is the capital of {x}?", "which city is the capital of {x}?")
ASK_LANGUAGE = ("what is the language of {x}?", "which language do people speak in {x}?")
TOPICS = ((CAPITAL, ASK_CAPITAL, CAPITALS), (LANGUAGE, ASK_LANGUAGE, LANGUAGES))
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
BART = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}
BART |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "max_position_embeddings": 64, "dropout": 0.0}
CONTEXT, QUESTION, ANSWER, BATCH = 48, 24, 12, 32


def main(out: Path = ROOT / "experiments/notebooks/checkpoints") -> None:
    question_tokenizer, generator_tokenizer = tokenizers()
    rng = np.random.default_rng(0)
    encoder, encoder_params = train_encoder(question_tokenizer, rng)
    generator, generator_params = train_generator(generator_tokenizer, rng)
    config = jm.RagConfig.from_question_encoder_generator_configs(
        encoder.config, generator.config, n_docs=4, max_combined_length=CONTEXT
    )
    model = jm.RagTokenForGeneration(config)
    empty = jm.init(model, jax.random.key(0))
    params = empty | {"rag": empty["rag"] | {"question_encoder": encoder_params, "generator": generator_params}}
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    folder = out / "capitals-rag"
    jm.save(folder, model, half)
    jm.RagTokenizer(question_tokenizer, generator_tokenizer).save_pretrained(folder)


def tokenizers() -> tuple[jm.DPRQuestionEncoderTokenizer, jm.BartTokenizer]:
    texts = [
        form.format(x=x, y=y)
        for forms, ask, ys in TOPICS
        for form in (*forms, *ask)
        for x, y in zip(COUNTRIES, ys, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        wordpiece.train(texts, 512, Path(folder, "bert"), 64)
        bpe.save(bpe.train(texts, 768, bpe.ROBERTA), Path(folder, "bart"), 64, bpe.ROBERTA)
        question = jm.DPRQuestionEncoderTokenizer.from_pretrained(Path(folder, "bert"))
        return question, jm.BartTokenizer.from_pretrained(Path(folder, "bart"))


def drawn(rng: np.random.Generator, n: int) -> list[tuple[str, str, str, str]]:
    """Title, text, question and answer of n facts that are not true."""
    rows = []
    for _ in range(n):
        forms, asks, answers = TOPICS[rng.integers(2)]
        x, y = rng.choice(COUNTRIES), rng.choice(answers)
        rows.append((x, rng.choice(forms).format(x=x, y=y), rng.choice(asks).format(x=x), y))
    return rows


def train_generator(tokenizer, rng, steps: int = 1500):
    ends = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    model = jm.BartForConditionalGeneration(
        jm.BartConfig(vocab_size=len(tokenizer), forced_eos_token_id=2, **ends, **BART)
    )
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0, 3e-3, 100, steps))
    state = training.init_state(optimizer, jm.init(model, jax.random.key(0)))
    step = training.make_step(model, optimizer)
    for i in range(steps):
        titles, texts, questions, answers = zip(*drawn(rng, BATCH), strict=True)
        contexts = [f"{t} / {text} // {q}" for t, text, q in zip(titles, texts, questions, strict=True)]
        batch = dict(tokenizer(contexts, padding="max_length", max_length=CONTEXT))
        target = tokenizer([f" {a}" for a in answers], padding="max_length", max_length=ANSWER)
        batch["labels"] = np.where(target["attention_mask"], target["input_ids"], -100)
        state, metrics = step(state, batch, jax.random.key(1))
        if i % 100 == 0 or i == steps - 1:
            print("generator", i, float(metrics["loss"]), flush=True)
    return model, state.params


def train_encoder(tokenizer: jm.DPRQuestionEncoderTokenizer, rng: np.random.Generator, steps: int = 400):
    config = jm.DPRConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **SIZES,
    )
    model = jm.DPRQuestionEncoder(config)
    optimizer = optax.adamw(optax.warmup_cosine_decay_schedule(0, 1e-3, 50, steps))

    def encode(params, inputs, key):
        return model.apply({"params": params}, **inputs).pooler_output

    state = training.init_state(optimizer, jm.init(model, jax.random.key(2)))
    step = training.make_contrastive_step(model, encode, lambda *inputs: encode(*inputs)[:, None], optimizer)
    options = {"padding": "max_length", "max_length": QUESTION}
    for i in range(steps):
        rows = drawn(rng, 2 * BATCH)
        titles, texts, questions, _ = map(list, zip(*rows, strict=True))
        batch = {f"question_{name}": array for name, array in tokenizer(questions, **options).items()}
        batch |= {f"context_{name}": array for name, array in tokenizer(titles, texts, **options).items()}
        topics = [2 * COUNTRIES.index(title) + ("language" in question) for title, _, question, _ in rows]
        state, metrics = step(state, {**batch, "passages": np.array(topics)[:, None]}, jax.random.key(0))
        if i % 100 == 0:
            print("encoder", i, float(metrics["loss"]), flush=True)
    return model, softened(state.params)


def softened(params: dict) -> dict:
    """The vectors times 1 / 4, so that documents that are similar share the probability of being retrieved."""
    norm = params["question_encoder"]["bert_model"]["encoder"]["layers"]["feed_forward_norm"]
    norm.update(jax.tree.map(lambda array: array.at[-1].multiply(0.25), norm))
    return params


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

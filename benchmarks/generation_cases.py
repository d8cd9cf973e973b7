"""Generation cases: beam search, prompts of different lengths, logits processors."""

from pathlib import Path

import numpy as np

from benchmarks import gpt2_cases, led_cases, work
from benchmarks.case import Case, CaseMaker, Rate, machine, peers, random_ids, writer
from benchmarks.lane import Participant
from benchmarks.peers import MODULES
from benchmarks.scales import Scale

BEAMS = 4
# An EOS token that is never generated before the limit, for processors that depend on one.
END = {"eos_token_id": 1, "pad_token_id": 0}


def beams(scale: Scale, folder: Path) -> Case:
    rate = Rate(scale.new, "tok", "bandwidth", work.decode_gigabytes(scale.model, scale.new))
    return Case(
        "beams_4",
        f"Beam search with {BEAMS} beams, one prompt, {scale.prompt} + {scale.new} tokens",
        peers(
            gpt2_cases.ALL_OF_THEM,
            "decode",
            folder / "gpt2",
            ids=random_ids(scale.model, 1, scale.prompt),
            new=scale.new,
            beams=BEAMS,
        ),
        rate=rate,
        machine=machine(rate, scale),
        weights=_gpt2(scale, folder),
        token_width=scale.prompt + scale.new,
        goals={"hf-torch-sdpa": 2.3, "hf-flax": 1.8, "ctranslate2-f32": 0.9},
    )


def led_beams(scale: Scale, folder: Path) -> Case:
    length, new = scale.documents[0], scale.summary
    return Case(
        "led_beams",
        f"LED: {new} tokens with {BEAMS} beams from a document of {length}, the encoder included",
        peers(
            ["ours", "hf-torch-sdpa"],
            "long_answer",
            folder / "led",
            ids=random_ids(scale.led, 1, length),
            new=new,
            beams=BEAMS,
        ),
        rounds=3,
        weights=writer("LEDForConditionalGeneration", {**scale.led, **led_cases.CONFIG}, folder / "led"),
        token_width=new + 1,
        goals={"hf-torch-sdpa": 3.0},
    )


def mixed(scale: Scale, folder: Path) -> Case:
    random, lengths = np.random.default_rng(0), scale.paragraphs[::2]
    texts = [random.integers(2, int(scale.model["vocab_size"]), length).tolist() for length in lengths]
    rows = len(texts) // 4
    arguments = {"folder": str(folder / "gpt2"), "texts": texts, "new": scale.summary}

    def participant(label: str, peer: str, **more) -> Participant:
        return Participant(label, peer, MODULES[peer], "decode_mixed", {**arguments, **more})

    return Case(
        "prompts_64",
        f"{len(texts)} prompts of the lengths of SQuAD's paragraphs ({min(lengths)} to {max(lengths)} tokens), padded "
        f"on the left, + {scale.summary} tokens each; ours {rows} at a time in the order of their lengths",
        (
            participant("ours", "ours", rows=rows),
            participant("hf-torch-sdpa", "hf-torch-sdpa"),
            participant("ours-at-once", "ours"),
        ),
        rounds=3,
        weights=_gpt2(scale, folder),
        token_width=scale.summary,
        goals={"hf-torch-sdpa": 2.0},
    )


def processors(scale: Scale, folder: Path) -> Case:
    """Cost of logits processors, without peers.

    Not included: classifier-free guidance, which is a second forward pass; custom processors; and diversity, which
    needs groups of beams.
    """

    def participant(label: str, job: str, **arguments) -> Participant:
        arguments = {"folder": str(folder / "gpt2"), "new": scale.new, **arguments}
        return Participant(label, "ours", MODULES["ours"], job, arguments)

    ids = random_ids(scale.model, 1, scale.prompt)
    each = options(scale)
    together = {name: value for chosen in each.values() for name, value in chosen.items()}
    narrow = {**scale.model, **gpt2_cases.CONFIG, "n_layer": 1, "n_embd": 64, "n_head": 1}
    return Case(
        "processors",
        f"Greedy decoding of {scale.new} tokens without any processor, and sampling with all of them ('ours'); and "
        "what each adds to a model of one narrow layer with the same vocabulary, in microseconds a token",
        (
            participant("ours", "decode_with", ids=ids, options=together),
            participant("none", "decode_with", ids=ids, options={}),
            participant("each", "decode_with_each", ids=ids, config=narrow, options=each),
        ),
        weights=_gpt2(scale, folder),
        goals={"none": 1 / 1.15},
    )


def options(scale: Scale) -> dict[str, dict]:
    """Return the options that enable each processor or warper, by name; they can be combined."""
    length = scale.prompt + scale.new // 2
    return {
        "sequence_bias": {"sequence_bias": [[[5], -1.0], [[7, 9], 2.0]]},
        "encoder_repetition": {"encoder_repetition_penalty": 1.1},
        "repetition": {"repetition_penalty": 1.2},
        "no_repeat_ngram": {"no_repeat_ngram_size": 3},
        "encoder_no_repeat_ngram": {"encoder_no_repeat_ngram_size": 4},
        "bad_words": {"bad_words_ids": [[11], [12, 13]]},
        "min_length": {"min_length": scale.prompt + scale.new, **END},
        "min_new_tokens": {"min_new_tokens": scale.new, **END},
        "forced_bos": {"forced_bos_token_id": 6},
        "forced_eos": {"forced_eos_token_id": 1, **END, "min_new_tokens": scale.new},
        "remove_invalid": {"remove_invalid_values": True},
        "exponential_decay": {"exponential_decay_length_penalty": [4, 1.001], **END, "min_new_tokens": scale.new},
        "suppress": {"suppress_tokens": [3, 4]},
        "begin_suppress": {"begin_suppress_tokens": [8, 9]},
        "forced_decoder_ids": {"forced_decoder_ids": [[length, 10]]},
        "renormalize": {"renormalize_logits": True},
        "sampling": {"do_sample": True, "top_k": 0},
        "temperature": {"do_sample": True, "top_k": 0, "temperature": 0.8},
        "top_p of all": {"do_sample": True, "top_k": 0, "top_p": 0.9},
        "top_k": {"do_sample": True, "top_k": 50},
        "top_k and the others": {
            **{"do_sample": True, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95},
            **{"epsilon_cutoff": 1e-4, "eta_cutoff": 1e-4},
        },
    }


CASES: dict[str, CaseMaker] = {
    "beams_4": beams,
    "led_beams": led_beams,
    "prompts_64": mixed,
    "processors": processors,
}


def _gpt2(scale: Scale, folder: Path) -> Participant:
    return writer("GPT2LMHeadModel", {**scale.model, **gpt2_cases.CONFIG}, folder / "gpt2")

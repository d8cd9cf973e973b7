"""LED cases: encoding long documents, and generating answers."""

from pathlib import Path

from benchmarks import work
from benchmarks.case import Case, CaseMaker, Rate, machine, peers, random_ids, writer
from benchmarks.lane import Participant
from benchmarks.peers import MODULES
from benchmarks.scales import Scale

# With 0.02, the states of a random model are nearly equal. Without an EOS token, all peers generate the same length.
CONFIG = {"init_std": 0.05, "eos_token_id": None}


def encode(which: int, goal: float, scale: Scale, folder: Path) -> Case:
    length = scale.documents[which]
    rate = Rate(length, "tok", "gemm", work.longformer_gigaflops(scale.led, length))
    return Case(
        f"led_encode_{'16384' if which else '4096'}",
        f"LED's encoder on one document of {length} tokens, the first of them global",
        peers(["ours", "hf-torch-sdpa"], "long_encode", folder / "led", ids=random_ids(scale.led, 1, length)),
        rounds=3,
        rate=rate,
        machine=machine(rate, scale),
        weights=_weights(scale, folder),
        goals={"hf-torch-sdpa": goal},
    )


def generate(scale: Scale, folder: Path) -> Case:
    length, new = scale.documents[0], scale.summary
    ids = random_ids(scale.led, 1, length)
    return Case(
        "led_generate",
        f"Greedy decoding of {new} tokens from {length} encoded ones; encoding is not timed",
        peers(["ours", "hf-torch-sdpa"], "long_decode", folder / "led", ids=ids, new=new),
        rounds=3,
        weights=_weights(scale, folder),
        token_width=new + 1,
        goals={"hf-torch-sdpa": 3.0},
    )


def lengths(scale: Scale, folder: Path) -> Case:
    """Time by length, without peers: linear if the cost is proportional to the length."""

    def participant(length: int) -> Participant:
        arguments = {"folder": str(folder / "led"), "ids": random_ids(scale.led, 1, length)}
        return Participant(str(length), "ours", MODULES["ours"], "long_encode", arguments)

    longest = scale.documents[1]
    return Case(
        "led_lengths",
        "LED's encoder on documents of growing length",
        tuple(participant(longest * part // 16) for part in (1, 2, 4, 8, 12, 16)),
        rounds=3,
        weights=_weights(scale, folder),
        curve="tokens",
    )


CASES: dict[str, CaseMaker] = {
    "led_encode_4096": lambda scale, folder: encode(0, 1.8, scale, folder),
    "led_encode_16384": lambda scale, folder: encode(1, 2.4, scale, folder),
    "led_generate": generate,
    "led_lengths": lengths,
}


def _weights(scale: Scale, folder: Path) -> Participant:
    return writer("LEDForConditionalGeneration", {**scale.led, **CONFIG}, folder / "led")

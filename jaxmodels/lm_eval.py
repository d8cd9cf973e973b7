"""Causal language models in EleutherAI's lm-eval (0.4), as its model "jaxmodels".

    import jaxmodels.lm_eval  # registers the name
    lm_eval.simple_evaluate(model="jaxmodels", model_args="pretrained=openai-community/gpt2", tasks=["lambada_openai"])

On the command line `python -m jaxmodels.lm_eval` is lm-eval's own program, with the name registered:

    python -m jaxmodels.lm_eval run --model jaxmodels --model_args pretrained=openai-community/gpt2 --tasks piqa

Importing this module needs lm-eval: pip install 'jaxmodels[lm-eval]'.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from jaxmodels.architectures.base import Model
from jaxmodels.batching import length_batches
from jaxmodels.generation import generate
from jaxmodels.hub import load
from jaxmodels.inference.likelihood import causal_windows, continuation_window, log_likelihoods
from jaxmodels.tokenization import load_tokenizer
from jaxmodels.tokenization.base import Tokenizer

try:
    # Registers lm-eval's own models, which it would do only if there were none yet.
    import lm_eval.models  # noqa: F401
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
except ImportError as error:
    raise ImportError("jaxmodels.lm_eval needs lm-eval: pip install 'jaxmodels[lm-eval]'") from error

# Names that tasks have for the number of tokens to generate, in lm-eval's order of precedence.
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
DEFAULT_LENGTH = 256


@register_model("jaxmodels")
class JaxModelsLM(TemplateLM):
    """A causal language model with its tokenizer, as lm-eval asks it.

    Log-likelihoods are those of lm-eval's model "hf": the same tokens, windows and truncation on the left. Several
    devices: load model and parameters with a mesh, and evaluate inside `sharding.use(mesh, rules)`.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        *,
        model: Model | None = None,
        params: Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | str | None = None,
        batch_size: int | str = 8,
        max_length: int | None = None,
        dtype: str = "float32",
        revision: str | None = None,
        seed: int = 0,
    ):
        """
        Args:
          pretrained: folder or Hub id; or pass model, params and tokenizer.
          model, params: from `jm.load`.
          tokenizer: a tokenizer, its folder or Hub id; None for that of `pretrained`.
          batch_size: sequences that are computed at a time.
          max_length: maximum number of tokens; None: as many as the model allows.
          dtype: dtype of the computation, of a model that is loaded here.
          revision: of the Hub's repository.
          seed: of sampled texts.

        Raises:
          ValueError: neither or both of a name and a model, an encoder-decoder or a model without a language modelling
            head, a tokenizer without eos token, or a batch_size that is no positive number.
        """
        super().__init__()
        if (pretrained is None) == (model is None) or (model is None) != (params is None):
            raise ValueError("pass either pretrained, a folder or Hub id, or model, params and tokenizer")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ValueError(f"batch_size is a whole number above 0, got {batch_size!r}; it is not found by trying")
        if model is None:
            assert pretrained is not None
            cls = "AutoModelForCausalLM"
            model, params = load(pretrained, cls=cls, dtype=dtype, param_dtype="float32", revision=revision)
        if model.config.is_encoder_decoder or getattr(model, "generation_mode", None) != "decoder_only":
            raise ValueError(f"lm-eval is for causal language models here, got a {type(model).__name__}")
        source = pretrained if tokenizer is None else tokenizer
        if source is None:
            raise ValueError("pass the tokenizer of the model, too")
        if not isinstance(source, Tokenizer):
            source = load_tokenizer(source, revision=revision, model_max_length=None)
        if source.eos_token_id is None:
            raise ValueError("the tokenizer has no eos token, with which texts end")
        assert params is not None
        self.model, self.params, self.tokenizer = model, dict(params), source
        self._end: int = source.eos_token_id
        self.batch_size, self.seed = int(batch_size), seed
        self.max_length = model.max_tokens if max_length is None else min(int(max_length), model.max_tokens)
        self._name = str(pretrained or type(model).__name__)

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return self._end

    @property
    def prefix_token_id(self) -> int:
        """The id before the first token of a text without context."""
        bos: int | None = self.tokenizer.bos_token_id
        return self._end if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """By which lm-eval distinguishes its caches of requests."""
        return self._name.replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; special tokens are added as the tokenizer does, unless the text has the first one already."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode([self.prefix_token_id]))
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def apply_chat_template(self, chat_history: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a conversation, by the tokenizer's chat template."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_options: Any,
    ) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether greedy decoding gives it."""
        windows = [continuation_window(context, text, self.max_length) for _, context, text in requests]
        found: list[tuple[float, bool]] = []
        for (strings, _, _), each in zip(requests, self._likelihoods(windows, disable_tqdm), strict=True):
            found.append((float(each.log_likelihoods.sum()), bool(each.greedy.all())))
            self.cache_hook.add_partial("loglikelihood", strings, found[-1])
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of each whole text, in windows of max_length without overlap."""
        texts = [request.args[0] for request in requests]
        windows = [
            list(
                causal_windows(
                    [self.prefix_token_id, *self.tok_encode(text)], length=self.max_length, stride=self.max_length
                )
            )
            for text in texts
        ]
        found = iter(self._likelihoods([window for each in windows for window in each], disable_tqdm))
        totals = []
        for text, each in zip(texts, windows, strict=True):
            totals.append(sum(float(next(found).log_likelihoods.sum()) for _ in each))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), totals[-1])
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts that continue the contexts, up to the first stop string of a task."""
        groups: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items()))].append(place)
        results = [""] * len(requests)
        with tqdm(total=len(requests), unit="text", disable=disable_tqdm) as bar:
            for places in groups.values():
                options = dict(requests[places[0]].args[1])
                contexts = [requests[place].args[0] for place in places]
                for place, text in self._continue(contexts, places, options):
                    results[place] = text
                    self.cache_hook.add_partial("generate_until", requests[place].args, text)
                    bar.update()
        return results

    def _continue(
        self, contexts: Sequence[str], places: Sequence[int], options: dict[str, Any]
    ) -> Iterable[tuple[int, str]]:
        """Yields place and text of each context; all have the same options."""
        stop = options.pop("until", None) or []
        stop = [stop] if isinstance(stop, str) else [text for text in stop if text]
        lengths = [int(value) for name in LENGTHS if (value := options.pop(name, None)) is not None]
        length = lengths[0] if lengths else DEFAULT_LENGTH
        room = self.max_length - length
        if room < 1:
            raise ValueError(f"{length} tokens leave no room for a context in the {self.max_length} of the model")
        temperature = options.pop("temperature", None)
        options.setdefault("do_sample", bool(temperature))
        if options["do_sample"] and temperature:
            options["temperature"] = float(temperature)
        if stop:
            options |= {"stop_strings": stop, "tokenizer": self.tokenizer}
        padding = self._end if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id
        options |= {"max_new_tokens": length, "eos_token_id": self._end, "pad_token_id": padding}
        tokens = [self.tok_encode(context)[-room:] for context in contexts]
        for rows, _ in length_batches([len(ids) for ids in tokens], self.batch_size):
            width = max(len(tokens[row]) for row in rows)
            ids = np.stack([np.pad(tokens[row], (width - len(tokens[row]), 0)) for row in rows]).astype(np.int32)
            mask = np.stack([np.arange(width) >= width - len(tokens[row]) for row in rows]).astype(np.int32)
            if options["do_sample"]:
                # What is drawn for a request depends on its place only.
                keys = [jax.random.fold_in(jax.random.key(self.seed), places[row]) for row in rows]
                options["key"] = jax.numpy.stack(keys)
            out = generate(self.model, self.params, ids, attention_mask=mask, **options)
            for row, sequence in zip(rows, np.asarray(out.sequences)[:, width:], strict=True):
                text = self.tokenizer.decode(sequence, skip_special_tokens=True)
                yield places[row], _until(text, stop)

    def _likelihoods(self, windows: Sequence[Any], disable_tqdm: bool) -> list[Any]:
        return log_likelihoods(
            self.model,
            self.params,
            windows,
            pad_token_id=self.tokenizer.pad_token_id,
            batch_size=self.batch_size,
            progress=not disable_tqdm,
        )


def _until(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string."""
    for each in stop:
        text = text.split(each)[0]
    return text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()

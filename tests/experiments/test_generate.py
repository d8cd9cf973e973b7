"""Batch generation: results match single prompts, also if the job is interrupted."""

import json
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from support import generation_samples as samples
from support.experiment_runs import finish, kill_when, logged, refused, starter

import jaxmodels as jm
from experiments import generate
from experiments.batch_generation import prompts
from experiments.batch_generation.journal import Journal
from experiments.configs import generate as default
from experiments.configs import generate_smoke

NEW = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """models(family) -> folder of a model, written once."""
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        path = root / family
        return path if path.exists() else getattr(samples, family)(path)

    return folder


def settings(model: Path, file: Path, **options) -> FrozenConfigDict:
    """The smoke config with changed options, of the config or of generate."""
    config = generate_smoke.get_config()
    config.model.path, config.input = str(model), str(file)
    for name, value in options.items():
        target = config if name in ("batch_size", "seed", "cache_dtype", "distributed") else config.generate
        target[name] = value
    return FrozenConfigDict(config)


def run(config: FrozenConfigDict, folder: Path) -> list[dict]:
    folder.mkdir(parents=True, exist_ok=True)
    generate.run(config, folder)
    return read(folder / "output.jsonl")


def read(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def alone(model_folder: Path, text: str, query: str | None = None, **options) -> list[str]:
    """Generate for one prompt with jm.generate, without code of the experiment."""
    model, params = jm.load(model_folder)
    tokenizer = jm.load_tokenizer(model_folder)
    ids, further = tokenizer(text)["input_ids"].tolist(), {}
    if isinstance(model, jm.RobertaPreLayerNormForCausalLM):
        ids = ids[:-1]
    if isinstance(model, jm.LEDForConditionalGeneration):
        asked = tokenizer(query)["input_ids"].tolist() if query is not None else ids[:1]
        ids = asked + ids[1:]
        further = {"global_attention_mask": [[1] * len(asked) + [0] * (len(ids) - len(asked))]}
    options = {"max_new_tokens": NEW, "pad_token_id": 0, **options, **further}
    found = jm.generate(model, params, np.array([ids]), attention_mask=np.ones((1, len(ids)), int), **options)
    start = 1 if model.config.is_encoder_decoder else len(ids)
    return tokenizer.batch_decode(np.asarray(found.sequences)[:, start:], skip_special_tokens=True)


@pytest.mark.parametrize("family", ["gpt2", "led"])
def test_batched_results_match_single_prompts(family, models, tmp_path):
    texts = samples.prompts(5)
    rows = [{"prompt": text, "number": n, "target": f"t{n}"} for n, text in enumerate(texts)]
    rows[3]["id"] = "three"
    if family == "led":
        rows[1]["query"], rows[2]["query"] = "the captain", "a boat in the morning"
    file = samples.write(tmp_path / "in.jsonl", rows)
    output = run(settings(models(family), file), tmp_path / "job")
    for number, (row, found) in enumerate(zip(rows, output, strict=True), 1):
        (text,) = alone(models(family), row["prompt"], row.get("query"))
        assert found == {"id": number, **row, "text": text}
    assert len({row["text"] for row in output}) > 3, "a model with constant output proves nothing"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "t5"])
def test_other_model_families(family, models, tmp_path):
    texts = samples.prompts(4)
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": text} for text in texts])
    found = [row["text"] for row in run(settings(models(family), file), tmp_path / "job")]
    assert found == [alone(models(family), text)[0] for text in texts]


def test_beam_search_writes_texts_and_scores(models, tmp_path):
    texts = samples.prompts(3)
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": text} for text in texts])
    several = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}
    output = run(settings(models("gpt2"), file, **several), tmp_path / "two")
    for text, row in zip(texts, output, strict=True):
        assert row["texts"] == alone(models("gpt2"), text, **several)
        assert len(row["scores"]) == 2 and row["scores"][0] >= row["scores"][1]
        assert "text" not in row and "score" not in row
    (first, *_) = run(settings(models("gpt2"), file, **several | {"num_return_sequences": 1}), tmp_path / "one")
    assert first["text"] == output[0]["texts"][0]
    assert first["score"] == pytest.approx(output[0]["scores"][0], abs=1e-5)


def test_sampling_depends_on_id_and_seed_only(models, tmp_path):
    rows = [{"prompt": text, "id": f"line {n}"} for n, text in enumerate(samples.prompts(5))]
    rows.append({**rows[0], "id": "the same prompt again"})
    options = {"do_sample": True, "top_k": 0, "max_new_tokens": 8}

    def texts(name, rows, **more):
        file = samples.write(tmp_path / f"{name}.jsonl", rows)
        return {
            row["id"]: row["text"] for row in run(settings(models("gpt2"), file, **options | more), tmp_path / name)
        }

    first = texts("first", rows)
    assert texts("other batches", rows[::-1][:5], batch_size=3).items() < first.items()
    assert first["the same prompt again"] != first["line 0"]
    other = texts("other seed", rows, seed=1)
    assert all(other[name] != text for name, text in first.items())


@pytest.mark.parametrize(
    "options",
    [
        {"repetition_penalty": 0.2, "no_repeat_ngram_size": 4},  # what pads, which is the end, would be said again
        {"min_length": 8, "sequence_bias": (((0,), 50.0),)},  # the end comes as soon as it may
    ],
)
def test_options_that_inspect_the_prompt_ignore_padding(options, models, tmp_path):
    texts = samples.prompts(4)
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": text} for text in texts])
    found = [row["text"] for row in run(settings(models("gpt2"), file, **options), tmp_path / "job")]
    assert found == [alone(models("gpt2"), text, **options)[0] for text in texts]


@pytest.fixture
def finished(models, tmp_path):
    """A finished job: config, folder, and rows of the output."""
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": text} for text in samples.prompts(5)])
    config = settings(models("gpt2"), file, do_sample=True)
    return config, tmp_path / "job", run(config, tmp_path / "job")


def test_incomplete_line_is_dropped_and_only_missing_lines_are_generated(finished):
    config, folder, output = finished
    whole = (folder / "finished.jsonl").read_bytes()
    second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in (0, 5, second - 1, second, second + 9, len(whole) - 1, len(whole)):
        (folder / "output.jsonl").unlink()
        # Existing lines are recognised and not changed.
        marked = whole[:cut].replace(b'"prompt"', b'"kept": 1, "prompt"')
        (folder / "finished.jsonl").write_bytes(marked)
        result = generate.run(config, folder)
        kept = whole[:cut].count(b"\n")
        assert (result["generated"], result["texts"]) == (5 - kept, 5)
        rows = read(folder / "output.jsonl")
        assert sum(row.pop("kept", 0) for row in rows) == kept
        assert rows == output
        assert sorted(row["id"] for row in read(folder / "finished.jsonl")) == [1, 2, 3, 4, 5]


def test_complete_job_generates_nothing(finished, capsys):
    config, folder, _ = finished
    before = (folder / "output.jsonl").read_bytes()
    assert generate.run(config, folder) == {"texts": 5, "generated": 0}
    assert "this job is complete" in capsys.readouterr().out
    assert (folder / "output.jsonl").read_bytes() == before


def test_damage_not_caused_by_a_kill_is_reported(finished):
    config, folder, _ = finished
    (folder / "output.jsonl").unlink()
    file = folder / "finished.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"prompt"', b"prompt", 1))
    with pytest.raises(ValueError, match="line 1 of .*finished.jsonl is damaged"):
        generate.run(config, folder)


def test_changed_input_or_model_is_rejected(finished, tmp_path):
    config, folder, _ = finished
    file = Path(config.input)
    content = file.read_text()
    file.write_text(content.replace("the", "thy"))
    with pytest.raises(ValueError, match="the input changed since the job .*--fresh"):
        generate.run(config, folder)
    file.write_text(content)

    copy = tmp_path / "model"
    shutil.copytree(config.model.path, copy)
    config = settings(copy, file)
    run(config, tmp_path / "other")
    model, params = jm.load(copy)
    jm.save(copy, model, jax.tree.map(lambda a: a * 1.01, params))
    with pytest.raises(ValueError, match="the model changed since the job"):
        generate.run(config, tmp_path / "other")


BAD = [
    ("{", "not JSON"),
    ("", "not JSON"),
    ('{"prompt": "\udcff"}', "not JSON"),  # written as the byte ff, which is not UTF-8
    ("[1]", "expected a JSON object, got list"),
    ('{"text": "a"}', '"prompt" is a string, got null'),
    ('{"prompt": ["a"]}', '"prompt" is a string, got ["a"]'),
    ('{"prompt": "a", "texts": []}', 'the field "texts" would be overwritten'),
    ('{"prompt": "a", "id": 1.5}', '"id" is a string or an integer, got 1.5'),
    ('{"prompt": "a", "id": 1}', "its id 1 is already used in line 1"),
    ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
    ('{"prompt": ""}', "the prompt has no tokens"),
    ('{"prompt": "a", "query": "b"}', 'only LED reads a "query"'),
    (json.dumps({"prompt": "x" * 59}), "too long: 59 tokens; with these options at most 58 are possible"),
]


def test_all_invalid_lines_are_reported_before_generation(models, tmp_path):
    good = '{"prompt": "%s"}' % ("x" * 58)
    file, folder = tmp_path / "in.jsonl", tmp_path / "job"
    file.write_bytes("\n".join([good, *(line for line, _ in BAD)]).encode(errors="surrogateescape"))
    folder.mkdir()
    config = settings(models("gpt2"), file)
    with pytest.raises(ValueError, match="nothing was generated") as raised:
        generate.run(config, folder)
    named = {line.split(":")[0]: line for line in str(raised.value).splitlines()[1:]}
    for number, (_, reason) in enumerate(BAD, 2):
        assert reason in named[f"  line {number}"]
    assert len(named) == len(BAD) and list(folder.iterdir()) == []
    # The valid line alone can be processed in the same folder.
    file.write_text(good)
    assert len(run(config, folder)) == 1


def test_too_long_encoder_input_is_reported(models, tmp_path):
    row = {"prompt": "x" * 60, "query": "yy"}  # with <s> twice and </s> in the middle and at the end
    file = samples.write(tmp_path / "in.jsonl", [row])
    with pytest.raises(ValueError, match="line 1: too long: 65 tokens; with these options at most 64 are possible"):
        run(settings(models("led"), file), tmp_path / "job")
    with pytest.raises(ValueError, match="17 output tokens are more than the 16 positions"):
        run(settings(models("led"), file, max_new_tokens=16), tmp_path / "job")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_scores": True}, "generate.output_scores: a batch job only writes texts and scores"),
        ({"max_time": 1.0}, "generate.max_time: texts that are cut off"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs do_sample=True or beams"),
        ({"distributed": True}, "config.distributed is not supported: a job runs in one process"),
    ],
)
def test_unsupported_options_are_rejected_by_name(options, message, models, tmp_path):
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": "a"}])
    config = ConfigDict(settings(models("gpt2"), file).to_dict())
    with config.unlocked():
        for name, value in options.items():
            (config if name in config else config.generate)[name] = value
    with pytest.raises(ValueError, match=message):
        run(FrozenConfigDict(config), tmp_path / "job")


def test_model_that_cannot_generate_is_rejected(models, tmp_path):
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": "a"}])
    config = ConfigDict(settings(models("gpt2"), file).to_dict())
    config.model.cls = "GPT2Model"
    with pytest.raises(ValueError, match="GPT2Model cannot generate text; set config.model.cls to one of GPT2LM"):
        run(FrozenConfigDict(config), tmp_path / "job")


@pytest.mark.parametrize("one_length", [False, True])
def test_batches_have_every_prompt_once_and_the_longest_first(one_length):
    lengths = np.random.default_rng(0).integers(1, 9, 41)
    found = prompts.plan_batches(lengths, 4, one_length=one_length)
    assert sorted(np.concatenate(found)) == list(range(41))
    assert all(len(batch) <= 4 for batch in found)
    assert (np.diff(lengths[np.concatenate(found)]) <= 0).all()
    if one_length:
        assert all(len(set(lengths[batch])) == 1 for batch in found)
    else:
        assert len(found) == 11


def test_journal_is_locked_against_other_processes(tmp_path):
    with Journal(tmp_path / "finished.jsonl"), pytest.raises(ValueError, match="another process is writing"):
        Journal(tmp_path / "finished.jsonl")
    with Journal(tmp_path / "finished.jsonl") as journal:
        assert journal.done == set()


def test_configs_have_the_same_keys_and_all_options():
    def keys(config):
        return {*config, *config.model, *config.generate}

    assert keys(generate_smoke.get_config()) == keys(default.get_config())
    known = {name for name in jm.GenerationConfig.__dataclass_fields__ if not name.startswith("output_")}
    assert set(default.get_config().generate) == known - {"max_time"}


@pytest.fixture(scope="module")
def start(models, tmp_path_factory):
    """start(workdir, *flags) -> a running job of 20 prompts with piped output."""
    rows = [{"prompt": text} for text in samples.prompts(20)]
    file = samples.write(tmp_path_factory.mktemp("input") / "in.jsonl", rows)
    return starter(
        "generate",
        "--config=generate_smoke",
        f"--config.model.path={models('gpt2')}",
        f"--config.input={file}",
        "--config.generate.do_sample=True",
    )


@pytest.mark.slow
def test_run_killed_at_random_moments_matches_uninterrupted_run(start, tmp_path):
    uninterrupted, folder, rng = tmp_path / "uninterrupted", tmp_path / "killed", random.Random(0)
    output = finish(start(uninterrupted))
    assert "tokens/s" in output and "20/20" in output and "program 1: the first" in output
    journal = folder / "finished.jsonl"

    kills = 0
    counts = rng.randrange(1, 8), rng.randrange(9, 16)
    for moment in (journal.exists, *(lambda n=n: logged(journal) >= n for n in counts)):
        kills += kill_when(start(folder), moment)
        if logged(journal):  # as if the kill had come while the file was written
            with journal.open("ab") as file:
                file.write(b'{"id": 3, "prom')
    assert kills >= 2, "the job was over before it could be killed"
    assert f"{logged(journal)} done" in finish(start(folder))
    for name in ("finished.jsonl", "output.jsonl"):
        assert (folder / name).read_bytes() == (uninterrupted / name).read_bytes()

    message = refused(start(folder, "--config.generate.temperature=0.5"))
    assert "contains a run with another config: generate.temperature was None and is 0.5" in message

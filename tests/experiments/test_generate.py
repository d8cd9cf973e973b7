"""Batch generation: every line gets the text that it would get alone, whatever happens to the job on the way."""

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
from experiments.batch_generation import plan
from experiments.batch_generation.journal import Journal
from experiments.configs import generate as default
from experiments.configs import generate_smoke

NEW = 6


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """models(family) -> its folder, written once."""
    root = tmp_path_factory.mktemp("models")

    def folder(family: str) -> Path:
        path = root / family
        return path if path.exists() else getattr(samples, family)(path)

    return folder


def settings(model: Path, file: Path, **options) -> FrozenConfigDict:
    """The smoke config with these options of generate, or of its own."""
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
    """What one prompt gets from jm.generate, without any of the experiment's code."""
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
def test_each_line_gets_what_it_would_get_alone(family, models, tmp_path):
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
    assert len({row["text"] for row in output}) > 3, "a model that says the same to everyone shows nothing"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["roberta", "t5"])
def test_other_families_too(family, models, tmp_path):
    texts = samples.prompts(4)
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": text} for text in texts])
    found = [row["text"] for row in run(settings(models(family), file), tmp_path / "job")]
    assert found == [alone(models(family), text)[0] for text in texts]


def test_beams_give_texts_and_scores(models, tmp_path):
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


def test_what_is_drawn_depends_on_the_id_and_the_seed_alone(models, tmp_path):
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
def test_options_that_look_at_the_prompt_do_not_see_its_padding(options, models, tmp_path):
    texts = samples.prompts(4)
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": text} for text in texts])
    found = [row["text"] for row in run(settings(models("gpt2"), file, **options), tmp_path / "job")]
    assert found == [alone(models("gpt2"), text, **options)[0] for text in texts]


@pytest.fixture
def finished(models, tmp_path):
    """A finished job: its config, its folder, and the rows of its output."""
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": text} for text in samples.prompts(5)])
    config = settings(models("gpt2"), file, do_sample=True)
    return config, tmp_path / "job", run(config, tmp_path / "job")


def test_a_torn_line_is_dropped_and_only_what_is_missing_is_generated(finished):
    config, folder, output = finished
    whole = (folder / "finished.jsonl").read_bytes()
    second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
    for cut in (0, 5, second - 1, second, second + 9, len(whole) - 1, len(whole)):
        (folder / "output.jsonl").unlink()
        # Kept lines are recognised: they stay as they are.
        marked = whole[:cut].replace(b'"prompt"', b'"kept": 1, "prompt"')
        (folder / "finished.jsonl").write_bytes(marked)
        result = generate.run(config, folder)
        kept = whole[:cut].count(b"\n")
        assert (result["generated"], result["texts"]) == (5 - kept, 5)
        rows = read(folder / "output.jsonl")
        assert sum(row.pop("kept", 0) for row in rows) == kept
        assert rows == output
        assert sorted(row["id"] for row in read(folder / "finished.jsonl")) == [1, 2, 3, 4, 5]


def test_a_complete_job_generates_nothing(finished, capsys):
    config, folder, _ = finished
    before = (folder / "output.jsonl").read_bytes()
    assert generate.run(config, folder) == {"texts": 5, "generated": 0}
    assert "this job is complete" in capsys.readouterr().out
    assert (folder / "output.jsonl").read_bytes() == before


def test_damage_that_no_kill_does_is_named(finished):
    config, folder, _ = finished
    (folder / "output.jsonl").unlink()
    file = folder / "finished.jsonl"
    file.write_bytes(file.read_bytes().replace(b'"prompt"', b"prompt", 1))
    with pytest.raises(ValueError, match="line 1 of .*finished.jsonl is damaged"):
        generate.run(config, folder)


def test_a_changed_input_or_model_is_refused(finished, tmp_path):
    config, folder, _ = finished
    file = Path(config.input)
    content = file.read_text()
    file.write_text(content.replace("the", "thy"))
    with pytest.raises(ValueError, match="the input changed since the job .*--fresh"):
        generate.run(config, folder)
    file.write_text(content)

    own = tmp_path / "model"
    shutil.copytree(config.model.path, own)
    config = settings(own, file)
    run(config, tmp_path / "other")
    model, params = jm.load(own)
    jm.save(own, model, jax.tree.map(lambda a: a * 1.01, params))
    with pytest.raises(ValueError, match="the model changed since the job"):
        generate.run(config, tmp_path / "other")


BAD = [
    ("{", "not JSON"),
    ("", "not JSON"),
    ('{"prompt": "\udcff"}', "not JSON"),  # written as the byte ff, which is no UTF-8
    ("[1]", "a JSON object is expected, got list"),
    ('{"text": "a"}', '"prompt" is a text, got null'),
    ('{"prompt": ["a"]}', '"prompt" is a text, got ["a"]'),
    ('{"prompt": "a", "texts": []}', 'the field "texts" would be overwritten'),
    ('{"prompt": "a", "id": 1.5}', '"id" is a text or a whole number, got 1.5'),
    ('{"prompt": "a", "id": 1}', "its id 1 is that of line 1, too"),
    ('{"prompt": "\\ud800"}', "half of a surrogate pair"),
    ('{"prompt": ""}', "the prompt has no tokens"),
    ('{"prompt": "a", "query": "b"}', 'only LED reads a "query"'),
    (json.dumps({"prompt": "x" * 59}), "too long: 59 tokens, and with these options there is room for 58"),
]


def test_bad_lines_are_all_named_before_anything_is_generated(models, tmp_path):
    good = '{"prompt": "%s"}' % ("x" * 58)
    file, folder = tmp_path / "in.jsonl", tmp_path / "job"
    file.write_bytes("\n".join([good, *(line for line, _ in BAD)]).encode(errors="surrogateescape"))
    folder.mkdir()
    config = settings(models("gpt2"), file)
    with pytest.raises(ValueError, match="nothing has been generated") as raised:
        generate.run(config, folder)
    named = {line.split(":")[0]: line for line in str(raised.value).splitlines()[1:]}
    for number, (_, reason) in enumerate(BAD, 2):
        assert reason in named[f"  line {number}"]
    assert len(named) == len(BAD) and list(folder.iterdir()) == []
    # The good line alone can be used, in the same folder.
    file.write_text(good)
    assert len(run(config, folder)) == 1


def test_encoders_say_what_is_too_long(models, tmp_path):
    row = {"prompt": "x" * 60, "query": "yy"}  # with <s> twice and </s> in the middle and at the end
    file = samples.write(tmp_path / "in.jsonl", [row])
    with pytest.raises(ValueError, match="line 1: too long: 65 tokens, and with these options there is room for 64"):
        run(settings(models("led"), file), tmp_path / "job")
    with pytest.raises(ValueError, match="17 tokens of output are more than the 16 positions"):
        run(settings(models("led"), file, max_new_tokens=16), tmp_path / "job")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_scores": True}, "generate.output_scores: a batch job writes texts and scores only"),
        ({"max_time": 1.0}, "generate.max_time: texts that the clock cuts off"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 needs do_sample=True or beams"),
        ({"distributed": True}, "distributed: a job is one process"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options, message, models, tmp_path):
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": "a"}])
    config = ConfigDict(settings(models("gpt2"), file).to_dict())
    with config.unlocked():
        for name, value in options.items():
            (config if name in config else config.generate)[name] = value
    with pytest.raises(ValueError, match=message):
        run(FrozenConfigDict(config), tmp_path / "job")


def test_a_model_that_cannot_generate_is_refused(models, tmp_path):
    file = samples.write(tmp_path / "in.jsonl", [{"prompt": "a"}])
    config = ConfigDict(settings(models("gpt2"), file).to_dict())
    config.model.cls = "GPT2Model"
    with pytest.raises(ValueError, match="GPT2Model does not generate; give model.cls, one of GPT2LMHeadModel"):
        run(FrozenConfigDict(config), tmp_path / "job")


@pytest.mark.parametrize("one_length", [False, True])
def test_the_plan_has_every_prompt_once_and_the_longest_first(one_length):
    lengths = np.random.default_rng(0).integers(1, 9, 41)
    found = plan.batches(lengths, 4, one_length=one_length)
    assert sorted(np.concatenate(found)) == list(range(41))
    assert all(len(batch) <= 4 for batch in found)
    assert (np.diff(lengths[np.concatenate(found)]) <= 0).all()
    if one_length:
        assert all(len(set(lengths[batch])) == 1 for batch in found)
    else:
        assert len(found) == 11


def test_two_processes_do_not_write_the_same_journal(tmp_path):
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
    """start(workdir, *flags) -> a running job of 20 prompts with its output in a pipe."""
    rows = [{"prompt": text} for text in samples.prompts(20)]
    file = samples.write(tmp_path_factory.mktemp("input") / "in.jsonl", rows)
    return starter(
        "generate",
        "--config=experiments/configs/generate_smoke.py",
        f"--config.model.path={models('gpt2')}",
        f"--config.input={file}",
        "--config.generate.do_sample=True",
    )


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_undisturbed(start, tmp_path):
    undisturbed, folder, rng = tmp_path / "undisturbed", tmp_path / "killed", random.Random(0)
    output = finish(start(undisturbed))
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
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()

    message = refused(start(folder, "--config.generate.temperature=0.5"))
    assert "holds a run of another config: generate.temperature was None and is 0.5" in message

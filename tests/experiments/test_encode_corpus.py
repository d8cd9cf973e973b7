"""Encoding a corpus in parts, also when killed; parts, sources and vectors."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from support import retrieval_samples as samples
from support.experiment_runs import finish, in_two_processes, keys, kill_when, logged, starter
from support.tiny import random_params

import jaxmodels as jm
from experiments.batch_generation.journal import Journal, record_sources
from experiments.configs import encode_smoke, encode_squad
from experiments.data import wordpiece
from experiments.encode_corpus import run
from experiments.encoding import FILE, Encoder, Parts, read_passages
from jaxmodels.retrieval import fingerprint
from jaxmodels.retrieval.index_files import join_shards, write_shard
from jaxmodels.tensor_files import TensorFileError

TEXTS = [text for article in samples.squad()["data"] for p in article["paragraphs"] for text in [p["context"]]]


def save_encoder(folder: Path, cls, seed: int) -> Path:
    """A tiny encoder with a tokenizer."""
    wordpiece.train(TEXTS, 200, folder, 40)
    tokenizer = jm.load_tokenizer(folder, jm.DPRContextEncoderTokenizer)
    config = jm.DPRConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=40,
    )  # fmt: skip
    model = cls(config)
    jm.save(folder, model, random_params(model, seed))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoders") / "context", jm.DPRContextEncoder, 0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """150 passages in the format of psgs_w100.tsv."""
    file = tmp_path_factory.mktemp("corpus") / "passages.tsv"
    rows = [f"{i + 1}\t{'word ' * (i % 12)}{TEXTS[i % len(TEXTS)]}\tTitle {i}" for i in range(150)]
    file.write_text("\n".join(["id\ttext\ttitle", *rows]) + "\n")
    return file


@pytest.fixture(scope="module")
def start(encoder, corpus):
    """start(workdir, *flags, **environment) -> a running process with piped output."""
    flags = ["--config=encode_smoke", f"--config.encoder={encoder}"]
    flags += ["--config.data.kind=tsv", f"--config.data.path={corpus}", "--config.part_rows=2"]
    return starter("encode_corpus", *flags)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "index").iterdir()}


def lines(folder: Path) -> int:
    return sum(map(logged, (folder / "parts").glob("finished-*.jsonl")))


@pytest.mark.slow
def test_job_killed_at_any_moment_matches_uninterrupted_job(start, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    output = finish(start(whole))
    assert "75 parts, 0 of which are done" in output and "21,015,300 would take it" in output
    done = []
    for least in (3, 20):
        assert kill_when(start(killed), lambda n=least: lines(killed) >= n), "it was over before it could be killed"
        done.append(lines(killed))
        assert not (killed / "index" / "dense_index.json").exists(), "no index before all of it is there"
    journal = (killed / "parts" / "finished-00000.jsonl").read_text().splitlines()
    numbers = [json.loads(line)["id"] for line in journal]
    assert len(set(numbers)) == len(numbers), "every part was encoded once"
    output = finish(start(killed))
    assert f"75 parts, {done[-1]} of which are done" in output
    assert files(killed) == files(whole) and not (killed / "parts").exists()
    assert "this job is complete" in finish(start(killed))


@pytest.mark.slow
def test_two_processes_share_the_parts_of_the_same_index(start, tmp_path):
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    finish(start(whole))
    outputs = in_two_processes(start, shared)
    assert "75 parts, 0 of which are done" in outputs[0] and "passages/s" not in outputs[1]
    assert files(shared) == files(whole)


def smoke(encoder: Path, file: Path, **more) -> FrozenConfigDict:
    config = encode_smoke.get_config()
    config.data.update({"kind": "tsv", "path": str(file)})
    config.update({"encoder": str(encoder), "part_rows": 50, "rows": 8, **more})
    return FrozenConfigDict(config)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_index_has_the_vector_of_every_passage(encoder, corpus, tmp_path, dtype):
    result = run(smoke(encoder, corpus, index_dtype=dtype), tmp_path)
    assert result["passages"] == result["encoded"] == 150 and result["speed"] > 0
    index, texts = jm.DenseIndex.load(tmp_path / "index"), jm.Passages.load(tmp_path / "index")
    assert index.size == len(texts) == 150 and index.dtype == dtype and texts[3][0] == "Title 3"
    model, params = jm.load(encoder)
    assert index.fingerprint == fingerprint(model, params)
    tokenizer = jm.load_tokenizer(encoder, jm.DPRContextEncoderTokenizer)
    apply = jax.jit(lambda **batch: model.apply({"params": params}, **batch).pooler_output)
    some = [0, 11, 74, 149]
    titles, bodies = zip(*(texts[i] for i in some), strict=True)
    batch = tokenizer(list(titles), list(bodies), padding="max_length", truncation=True, max_length=32)
    expected = np.asarray(apply(**batch))
    tolerance = 1e-5 if dtype == "float32" else np.abs(expected).max() / 100
    np.testing.assert_allclose(index.vectors(np.array(some)), expected, atol=tolerance)


def test_index_is_bound_to_the_question_encoder(encoder, corpus, tmp_path):
    question = save_encoder(tmp_path / "question", jm.DPRQuestionEncoder, 1)
    config = smoke(encoder, corpus, question_encoder=str(question))
    found = Encoder(config)
    assert (
        found.fingerprint
        == fingerprint(*jm.load(question))
        != found.context_fingerprint
        == fingerprint(*jm.load(encoder))
    )
    folder = tmp_path / "job"
    folder.mkdir()
    record_sources(folder, {"the encoder": "of another model", "the question encoder": found.fingerprint})
    with pytest.raises(ValueError, match="the encoder changed since the job in .* was started"):
        run(config, folder)


def test_interrupted_job_matches_uninterrupted_job(encoder, corpus, tmp_path, monkeypatch):
    """Stop the job before a part is written, and between a part and its line of the journal."""
    config, whole, stopped = smoke(encoder, corpus, part_rows=40), tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    run(config, whole)
    for target, name, left in ((Parts, "add", 1), (Journal, "add", 1)):
        calls, real = [], getattr(target, name)

        def once(*arguments, calls=calls, real=real, left=left):
            if len(calls) == left:
                raise KeyboardInterrupt
            calls.append(real(*arguments))

        monkeypatch.setattr(target, name, once)
        with pytest.raises(KeyboardInterrupt):
            run(config, stopped)
        monkeypatch.undo()
        assert not (stopped / "index" / "dense_index.json").exists(), "no index before all of it is there"
    assert run(config, stopped)["encoded"] == 150 - 2 * 40, "what was done is not done again"
    assert files(stopped) == files(whole) and not (stopped / "parts").exists()
    assert run(config, stopped)["encoded"] == 0


def rows(count: int, seed: int = 0):
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32), None


def test_part_is_done_only_if_its_file_matches_the_journal(tmp_path):
    sizes = [3, 3, 2]
    with Parts(tmp_path, sizes, 0) as parts:
        assert parts.missing() == [0, 1, 2]
        parts.add(0, rows(3))
        parts.add(2, rows(2))
        with pytest.raises(ValueError, match="part 1 has 3 rows, got 2"):
            parts.add(1, rows(2))
        with pytest.raises(ValueError, match="another process is writing"):
            Parts(tmp_path, sizes, 0)
        with Parts(tmp_path, sizes, 1) as others:
            assert others.missing() == [1], "what another process has finished is finished"
            others.add(1, rows(3, 1))
        assert parts.missing() == []
        damaged = parts.path(2).read_bytes()
        parts.path(2).write_bytes(damaged[:-1] + bytes([damaged[-1] ^ 1]))
        parts.path(0).unlink()
        assert parts.missing() == [0, 2]
        parts.add(0, rows(3))
        assert parts.missing() == [2]
    with (tmp_path / "finished-00000.jsonl").open("a") as journal:
        journal.write('{"id": 2, "ro')
    with Parts(tmp_path, sizes, 0) as parts:
        assert parts.missing() == [2], "a line that a kill has cut off is none"


def test_part_without_journal_entry_is_written_again(tmp_path):
    """Writing to the closed journal fails."""
    with Parts(tmp_path, [3], 0) as parts:
        pass
    with pytest.raises(ValueError, match="closed file"):
        parts.add(0, rows(3))
    assert (tmp_path / "00000" / FILE).exists() and parts.missing() == [0]


def test_shards_are_joined_only_if_they_match(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, (values, scales) in zip(paths, (rows(3), rows(2, 1), rows(2, 2)), strict=True):
        write_shard(path, (values[:, :3] if path.stem == "c" else values, scales))
    join_shards(tmp_path / "index", paths[:2], "f" * 32, None)
    index = jm.DenseIndex.load(tmp_path / "index")
    assert index.fingerprint == "f" * 32
    np.testing.assert_array_equal(index.vectors(np.arange(5)), np.concatenate([rows(3)[0], rows(2, 1)[0]]))
    with pytest.raises(TensorFileError, match=r"c.safetensors: expected rows of \(4, .*found \(3, "):
        join_shards(tmp_path / "index", paths, None, None)
    assert jm.DenseIndex.load(tmp_path / "index").fingerprint == "f" * 32, "the earlier index is still there"


def test_sources(tmp_path):
    for name, count in (("b", 5), ("a", 8)):
        (tmp_path / f"{name}.txt").write_text(" ".join(f"{name}{i}" for i in range(count)))
    assert list(read_passages("text", str(tmp_path), 4)) == [
        ("a", "a0 a1 a2 a3"),
        ("a", "a4 a5 a6 a7"),
        ("b", "b0 b1 b2 b3"),
        ("b", "b4"),
    ]
    file = samples.write(tmp_path, samples.squad(2))
    found = list(read_passages("squad", str(file), 0))
    assert len(found) == 6 and found[0][0] == "Aldria (country)"
    with pytest.raises(ValueError, match="data.kind is one of tsv, squad, nq, text; got 'csv'"):
        list(read_passages("csv", str(file), 1))
    with pytest.raises(FileNotFoundError, match="no file at data.path='/no'"):
        list(read_passages("tsv", "/no", 1))
    with pytest.raises(ValueError, match="passage_words is at least 1"):
        list(read_passages("text", str(tmp_path), 0))


def test_configs_have_the_same_keys():
    assert keys(encode_smoke.get_config()) == keys(encode_squad.get_config())

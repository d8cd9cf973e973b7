"""Atomic saves of several files: what readers see of them, and malicious folders."""

import errno
import json
import os
import signal
import stat
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jaxmodels.tensor_files import TensorFileError, open_folder
from jaxmodels.tensor_files.atomic_save import FolderSnapshot, atomic_save, in_file_sets, read_snapshot
from jaxmodels.tensor_files.safetensors_file import write_tensors
from jaxmodels.tokenization import files
from jaxmodels.tokenization.loading import TOKENIZERS

OLD, NEW = {"config.json": "old", "generation_config.json": "old"}, {"config.json": "new"}


def save(folder, contents, *sets):
    with atomic_save(folder, *sets or ("config",)) as staging:
        for name, text in contents.items():
            (staging / name).write_text(text)


def contents(folder) -> dict[str, str]:
    """The contents of the files that a reader finds."""
    return read_snapshot(folder, lambda saved: {name: (saved / name).read_text() for name in saved.names()})


def tree(folder) -> dict:
    """All files with their contents and times, which any write changes."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_ino, content)
    return found


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """A folder whose second save was killed after the first of its files had been moved into place."""

    class Killed(BaseException):
        pass

    def stop(source, target, real=os.replace):
        real(source, target)
        if str(target) == str(folder / "config.json"):
            raise Killed

    folder = tmp_path / "model"
    save(folder, OLD)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", stop)
        save(folder, NEW | {"model.safetensors": "new"}, "config", "weights")
    assert (folder / "generation_config.json").exists() and not (folder / "model.safetensors").exists()
    return folder


def test_readers_see_a_committed_save_and_write_nothing(killed):
    before = tree(killed)
    assert contents(killed) == NEW | {"model.safetensors": "new"}
    saved = FolderSnapshot(killed)
    assert not (saved / "generation_config.json").exists() and (saved / "model.safetensors").is_file()
    assert tree(killed) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder_is_readable(killed):
    for path in (killed / ".saved", killed):
        path.chmod(0o555)
    assert contents(killed)["config.json"] == "new"
    for path in (killed, killed / ".saved"):
        path.chmod(0o755)


@pytest.mark.parametrize("sets", [("tokenizer",), ("config",)])
def test_the_next_save_completes_a_killed_one(killed, sets):
    wrote = {"vocab.txt": "a"} if sets == ("tokenizer",) else {"config.json": "newest"}
    save(killed, wrote, *sets)
    expected = NEW | {"model.safetensors": "new"} | wrote
    assert contents(killed) == expected and sorted(os.listdir(killed)) == sorted(expected)


def test_uncommitted_save_is_discarded(tmp_path):
    save(tmp_path, OLD)
    (tmp_path / ".saved").mkdir()
    (tmp_path / ".saved" / "config.json").write_text("half")
    (tmp_path / ".saved" / "order.json.draft").write_text('{"sets": ["config"], "files": ["config.json"]}')
    assert contents(tmp_path) == OLD
    save(tmp_path, NEW)
    assert os.listdir(tmp_path) == ["config.json"]


def test_save_that_fails_at_its_commit_leaves_all_old_files(tmp_path, monkeypatch):
    """Including files that the save would have removed."""

    def full(source, target, real=os.replace):
        if Path(target).name == "order.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    save(tmp_path, OLD)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "replace", full)
        save(tmp_path, NEW)
    assert contents(tmp_path) == OLD and sorted(os.listdir(tmp_path)) == sorted(OLD)


def test_files_of_other_sets_are_rejected(tmp_path):
    save(tmp_path, OLD)
    with pytest.raises(ValueError, match="notes.txt is not a file of config"):
        save(tmp_path, NEW | {"notes.txt": ""})
    assert contents(tmp_path) == OLD and not (tmp_path / ".saved").exists()


def test_tokenizer_file_set_is_complete():
    names = {name for cls in TOKENIZERS.values() for group in cls.VOCABULARY_FILES.values() for name in group}
    for name in {*names, files.TOKENIZER, files.CONFIG, files.SPECIAL_MAP, files.ADDED, files.CHAT_TEMPLATE}:
        assert in_file_sets(name, ["tokenizer"]), name


HOSTILE = {
    "files above": {"sets": ["config"], "files": ["../.bashrc"]},
    "absolute": {"sets": ["config"], "files": ["/etc/passwd"]},
    "a folder inside": {"sets": ["config"], "files": ["a/config.json"]},
    "a pattern": {"sets": ["*"], "files": []},
    "an earlier format": {"files": ["config.json"], "stale": ["../*.tex"]},
    "an earlier format with patterns": {"sets": ["config"], "files": ["config.json"], "stale": ["../*.tex"]},
    "a file of no set": {"sets": ["config"], "files": [".bashrc"]},
    "a file of another set": {"sets": ["config"], "files": ["model.safetensors"]},
    "the manifest itself": {"sets": ["config"], "files": ["order.json"]},
    "weights elsewhere": {"sets": ["weights"], "files": ["model-/../../x-of-1.safetensors"]},
    "zero byte": {"sets": ["config"], "files": ["config.json\0"]},
    "numbers": {"sets": [1], "files": [2]},
    "lists": {"sets": [["config"]], "files": [["config.json"]]},
    "strings": {"sets": "config", "files": "config.json"},
    "empty": {},
    "a list": [],
    "a very long name": {"sets": ["config"], "files": ["x" * 100_000]},
    "too many names": {"sets": ["config"], "files": ["config.json"] * 400_000},
}


@pytest.fixture
def home(tmp_path):
    """Files of a user, with a folder that was downloaded."""
    model = tmp_path / "work" / "model"
    save(model, OLD)
    (model / ".bashrc").write_text("downloaded")
    (tmp_path / ".bashrc").write_text("the user's")
    (tmp_path / "work" / "thesis.tex").write_text("years of work")
    (model / ".saved").mkdir()
    return model


@pytest.mark.parametrize("case", HOSTILE)
def test_invalid_manifest_is_rejected_and_removed_by_the_next_save(home, case):
    (home / ".saved" / "order.json").write_text(json.dumps(HOSTILE[case]))
    before = tree(home.parents[1])
    with pytest.raises(TensorFileError, match="order.json: expected ") as caught:
        contents(home)
    assert len(str(caught.value)) <= 500
    assert tree(home.parents[1]) == before
    save(home, NEW)
    assert contents(home) == NEW | {".bashrc": "downloaded"}
    assert (home.parents[1] / ".bashrc").read_text() == "the user's"
    assert (home.parent / "thesis.tex").read_text() == "years of work"


def link(path, target):
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("place", ["config.json", ".saved/config.json", ".saved/order.json", ".saved"])
def test_link_targets_are_never_written(tmp_path, place):
    outside, folder = tmp_path / "outside", tmp_path / "model"
    outside.mkdir()
    order = json.dumps({"sets": ["config"], "files": ["config.json"]})
    for name, text in {"config.json": "kept", "order.json": order}.items():
        (outside / name).write_text(text)
    folder.mkdir()
    if place.startswith(".saved/"):
        (folder / ".saved").mkdir()
        (folder / ".saved" / "order.json").write_text(order)
        (folder / place).unlink(missing_ok=True)
    link(folder / place, outside if place == ".saved" else outside / place.rpartition("/")[2])
    before = tree(outside)
    if place in (".saved", ".saved/order.json"):
        with pytest.raises(TensorFileError, match=r"\.saved"):
            contents(folder)
    else:
        assert contents(folder)["config.json"] == "kept"
    save(folder, {"generation_config.json": "new"}, "generation config")
    save(folder, NEW)
    assert tree(outside) == before
    assert contents(folder) == NEW and not (folder / "config.json").is_symlink()


def test_read_is_repeated_after_a_concurrent_save(tmp_path):
    save(tmp_path, OLD)
    attempts = []

    def read(saved):
        first = (saved / "config.json").read_text()
        attempts.append(first)
        if len(attempts) == 1:
            save(tmp_path, NEW)
        if len(attempts) == 2:
            save(tmp_path, NEW | {"generation_config.json": "later"})
        settings = saved / "generation_config.json"
        return first, settings.read_text() if settings.exists() else None

    # During the first attempt a file changes; during the second it is replaced by one with the same contents.
    assert read_snapshot(tmp_path, read) == ("new", "later") and attempts == ["old", "new", "new"]


def test_read_is_repeated_after_an_error_caused_by_a_concurrent_save(tmp_path):
    save(tmp_path, OLD)
    attempts = []

    def read(saved):
        path = saved / "generation_config.json"
        attempts.append(path)
        if len(attempts) == 1:
            save(tmp_path, NEW)
            path.read_text()
        return (saved / "config.json").read_text()

    assert read_snapshot(tmp_path, read) == "new"
    with pytest.raises(ZeroDivisionError):
        read_snapshot(tmp_path, lambda saved: 1 / len((saved / "generation_config.json").name[:0]))


def test_a_file_that_is_moved_during_a_read_is_found(killed):
    attempts = []

    def read(saved):
        path = saved / "model.safetensors"
        if not attempts:
            save(killed, {"vocab.txt": "a"}, "tokenizer")  # completes the killed save
        attempts.append(path)
        return path.read_text() if path.is_file() else None

    assert read_snapshot(killed, read) == "new" and len(attempts) == 2


def test_endless_concurrent_saves_raise(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmodels.tensor_files.atomic_save.READ_PAUSE", 0)
    with pytest.raises(TensorFileError, match="a change during each of 20 attempts; load it again"):
        read_snapshot(tmp_path, lambda saved: (saved / "config.json", save(tmp_path, NEW)))


def test_opened_tensors_are_unaffected_by_later_saves(tmp_path):
    def saved(value, shards):
        with atomic_save(tmp_path, "weights") as staging:
            names = [f"model-{i}-of-{shards}.safetensors" for i in range(shards)]
            for i, name in enumerate(names):
                write_tensors(staging / name, {str(i): np.full(1000, value, np.float32)})
            weight_map = {str(i): name for i, name in enumerate(names)}
            (staging / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    saved(1, 3)
    entries = open_folder(tmp_path)
    saved(2, 3)
    assert {float(x) for entry in entries.values() for x in entry.read()} == {1}
    saved(3, 1)
    assert {float(x) for entry in entries.values() for x in entry.read()} == {1}
    assert {float(x) for entry in open_folder(tmp_path).values() for x in entry.read()} == {3}


def test_file_modified_after_opening_is_rejected(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"a": np.zeros(1000, np.float32)})
    [entry] = open_folder(tmp_path).values()
    data = (tmp_path / "model.safetensors").read_bytes()
    time.sleep(0.01)  # times of files have a limited resolution
    (tmp_path / "model.safetensors").write_bytes(data[:-1] + b"x")
    with pytest.raises(TensorFileError, match="modified since; load it again"):
        entry.read()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_pipes_are_rejected_without_blocking(tmp_path, name):
    os.mkfifo(tmp_path / name)
    signal.alarm(20)
    try:
        if name == "config.json":
            assert not (FolderSnapshot(tmp_path) / name).is_file()
        else:
            with pytest.raises(TensorFileError, match="a folder, a pipe or a device"):
                open_folder(tmp_path)
    finally:
        signal.alarm(0)


def test_concurrent_saves_are_serialized(tmp_path):
    begun, order = threading.Event(), []

    def second():
        begun.wait()
        save(tmp_path, {"config.json": "second"})
        order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with atomic_save(tmp_path, "config") as staging:
        begun.set()
        (staging / "config.json").write_text("first")
        (staging / "generation_config.json").write_text("first")
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and contents(tmp_path) == {"config.json": "second"}


def test_killed_save_releases_its_lock(tmp_path):
    child = os.fork()
    if child == 0:
        with atomic_save(tmp_path, "config") as staging:
            (staging / "config.json").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    save(tmp_path, NEW)
    assert contents(tmp_path) == NEW and os.listdir(tmp_path) == ["config.json"]

"""Saves of several files as one step: what readers see of them, and what a folder that somebody else made cannot do."""

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


def save(folder, texts, *sets):
    with atomic_save(folder, *sets or ("config",)) as staging:
        for name, text in texts.items():
            (staging / name).write_text(text)


def texts(folder) -> dict[str, str]:
    """What a reader finds."""
    return read_snapshot(folder, lambda saved: {name: (saved / name).read_text() for name in saved.names()})


def tree(folder) -> dict:
    """Everything that is there, with times: whatever is written changes it."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        kept = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(kept.st_mode) else None
        found[str(path)] = (kept.st_mode, kept.st_mtime_ns, kept.st_ino, content)
    return found


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """A folder whose second save died when the first of its files had been moved into place."""

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


def test_a_killed_save_is_whole_for_readers_which_move_nothing(killed):
    before = tree(killed)
    assert texts(killed) == NEW | {"model.safetensors": "new"}
    saved = FolderSnapshot(killed)
    assert not (saved / "generation_config.json").exists() and (saved / "model.safetensors").is_file()
    assert tree(killed) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read_is_read(killed):
    for path in (killed / ".saved", killed):
        path.chmod(0o555)
    assert texts(killed)["config.json"] == "new"
    for path in (killed, killed / ".saved"):
        path.chmod(0o755)


@pytest.mark.parametrize("sets", [("tokenizer",), ("config",)])
def test_the_next_save_puts_a_killed_one_in_place(killed, sets):
    wrote = {"vocab.txt": "a"} if sets == ("tokenizer",) else {"config.json": "newest"}
    save(killed, wrote, *sets)
    expected = NEW | {"model.safetensors": "new"} | wrote
    assert texts(killed) == expected and sorted(os.listdir(killed)) == sorted(expected)


def test_a_save_that_died_before_its_order_never_was(tmp_path):
    save(tmp_path, OLD)
    (tmp_path / ".saved").mkdir()
    (tmp_path / ".saved" / "config.json").write_text("half")
    (tmp_path / ".saved" / "order.json.draft").write_text('{"sets": ["config"], "files": ["config.json"]}')
    assert texts(tmp_path) == OLD
    save(tmp_path, NEW)
    assert os.listdir(tmp_path) == ["config.json"]


def test_a_save_that_fails_at_its_order_leaves_every_old_file(tmp_path, monkeypatch):
    """Also those that the save would have removed."""

    def full(source, target, real=os.replace):
        if Path(target).name == "order.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    save(tmp_path, OLD)
    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "replace", full)
        save(tmp_path, NEW)
    assert texts(tmp_path) == OLD and sorted(os.listdir(tmp_path)) == sorted(OLD)


def test_files_of_other_sets_are_refused_and_leave_nothing(tmp_path):
    save(tmp_path, OLD)
    with pytest.raises(ValueError, match="notes.txt is no file of config"):
        save(tmp_path, NEW | {"notes.txt": ""})
    assert texts(tmp_path) == OLD and not (tmp_path / ".saved").exists()


def test_every_file_of_a_tokenizer_is_in_its_set():
    names = {name for cls in TOKENIZERS.values() for group in cls.VOCABULARY_FILES.values() for name in group}
    for name in {*names, files.TOKENIZER, files.CONFIG, files.SPECIAL_MAP, files.ADDED, files.CHAT_TEMPLATE}:
        assert in_file_sets(name, ["tokenizer"]), name


HOSTILE = {
    "files above": {"sets": ["config"], "files": ["../.bashrc"]},
    "absolute": {"sets": ["config"], "files": ["/etc/passwd"]},
    "a folder inside": {"sets": ["config"], "files": ["a/config.json"]},
    "a pattern of its own": {"sets": ["*"], "files": []},
    "the earlier form": {"files": ["config.json"], "stale": ["../*.tex"]},
    "and patterns": {"sets": ["config"], "files": ["config.json"], "stale": ["../*.tex"]},
    "a file of no set": {"sets": ["config"], "files": [".bashrc"]},
    "a file of another set": {"sets": ["config"], "files": ["model.safetensors"]},
    "the order itself": {"sets": ["config"], "files": ["order.json"]},
    "weights elsewhere": {"sets": ["weights"], "files": ["model-/../../x-of-1.safetensors"]},
    "zero byte": {"sets": ["config"], "files": ["config.json\0"]},
    "numbers": {"sets": [1], "files": [2]},
    "lists": {"sets": [["config"]], "files": [["config.json"]]},
    "texts": {"sets": "config", "files": "config.json"},
    "empty": {},
    "a list": [],
    "a very long name": {"sets": ["config"], "files": ["x" * 100_000]},
    "very many names": {"sets": ["config"], "files": ["config.json"] * 400_000},
}


@pytest.fixture
def home(tmp_path):
    """A user's files, and among them a folder that somebody else made."""
    model = tmp_path / "work" / "model"
    save(model, OLD)
    (model / ".bashrc").write_text("theirs")
    (tmp_path / ".bashrc").write_text("the user's")
    (tmp_path / "work" / "thesis.tex").write_text("years of work")
    (model / ".saved").mkdir()
    return model


@pytest.mark.parametrize("case", HOSTILE)
def test_an_order_that_no_save_has_written_is_refused_and_dropped_by_the_next_save(home, case):
    (home / ".saved" / "order.json").write_text(json.dumps(HOSTILE[case]))
    before = tree(home.parents[1])
    with pytest.raises(TensorFileError, match="order.json: expected ") as caught:
        texts(home)
    assert len(str(caught.value)) <= 500
    assert tree(home.parents[1]) == before
    save(home, NEW)
    assert texts(home) == NEW | {".bashrc": "theirs"}
    assert (home.parents[1] / ".bashrc").read_text() == "the user's"
    assert (home.parent / "thesis.tex").read_text() == "years of work"


def link(path, target):
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("place", ["config.json", ".saved/config.json", ".saved/order.json", ".saved"])
def test_what_a_link_leads_to_is_never_written(tmp_path, place):
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
            texts(folder)
    else:
        assert texts(folder)["config.json"] == "kept"
    save(folder, {"generation_config.json": "new"}, "generation config")
    save(folder, NEW)
    assert tree(outside) == before
    assert texts(folder) == NEW and not (folder / "config.json").is_symlink()


def test_reading_once_more_where_a_save_came_in_between(tmp_path):
    save(tmp_path, OLD)
    tries = []

    def read(saved):
        first = (saved / "config.json").read_text()
        tries.append(first)
        if len(tries) == 1:
            save(tmp_path, NEW)
        if len(tries) == 2:
            save(tmp_path, NEW | {"generation_config.json": "later"})
        settings = saved / "generation_config.json"
        return first, settings.read_text() if settings.exists() else None

    # Of the first try nothing is left to mix with; of the second config.json is the same text in another file.
    assert read_snapshot(tmp_path, read) == ("new", "later") and tries == ["old", "new", "new"]


def test_an_error_that_a_save_has_caused_is_not_the_last_word(tmp_path):
    save(tmp_path, OLD)
    tries = []

    def read(saved):
        path = saved / "generation_config.json"
        tries.append(path)
        if len(tries) == 1:
            save(tmp_path, NEW)
            path.read_text()
        return (saved / "config.json").read_text()

    assert read_snapshot(tmp_path, read) == "new"
    with pytest.raises(ZeroDivisionError):
        read_snapshot(tmp_path, lambda saved: 1 / len((saved / "generation_config.json").name[:0]))


def test_a_file_that_is_put_in_place_while_it_is_read_is_not_missing(killed):
    tries = []

    def read(saved):
        path = saved / "model.safetensors"
        if not tries:
            save(killed, {"vocab.txt": "a"}, "tokenizer")  # puts the killed save in place
        tries.append(path)
        return path.read_text() if path.is_file() else None

    assert read_snapshot(killed, read) == "new" and len(tries) == 2


def test_a_folder_that_never_rests_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxmodels.tensor_files.atomic_save.READ_PAUSE", 0)
    with pytest.raises(TensorFileError, match="others at each of 20 tries; load it again"):
        read_snapshot(tmp_path, lambda saved: (saved / "config.json", save(tmp_path, NEW)))


def test_tensors_stay_those_of_the_save_that_they_were_opened_of(tmp_path):
    def saved(value, shards):
        with atomic_save(tmp_path, "weights") as staging:
            names = [f"model-{i}-of-{shards}.safetensors" for i in range(shards)]
            for i, name in enumerate(names):
                write_tensors(staging / name, {str(i): np.full(1000, value, np.float32)})
            places = {str(i): name for i, name in enumerate(names)}
            (staging / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    saved(1, 3)
    entries = open_folder(tmp_path)
    saved(2, 3)
    assert {float(x) for entry in entries.values() for x in entry.read()} == {1}
    saved(3, 1)
    assert {float(x) for entry in entries.values() for x in entry.read()} == {1}
    assert {float(x) for entry in open_folder(tmp_path).values() for x in entry.read()} == {3}


def test_a_file_that_is_written_into_after_it_was_opened_is_refused(tmp_path):
    write_tensors(tmp_path / "model.safetensors", {"a": np.zeros(1000, np.float32)})
    [entry] = open_folder(tmp_path).values()
    data = (tmp_path / "model.safetensors").read_bytes()
    time.sleep(0.01)  # a file's time has steps
    (tmp_path / "model.safetensors").write_bytes(data[:-1] + b"x")
    with pytest.raises(TensorFileError, match="written into since; load it again"):
        entry.read()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path, name):
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


def test_the_second_of_two_saves_waits_and_is_the_one_that_stays(tmp_path):
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
    assert order == ["first", "second"] and texts(tmp_path) == {"config.json": "second"}


def test_the_lock_of_a_killed_save_is_gone(tmp_path):
    child = os.fork()
    if child == 0:
        with atomic_save(tmp_path, "config") as staging:
            (staging / "config.json").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    save(tmp_path, NEW)
    assert texts(tmp_path) == NEW and os.listdir(tmp_path) == ["config.json"]

"""Program that reads damaged files in subprocesses, and reports the outcomes.

Arguments: a folder, the number of files of each type, a seed, and optionally the types. Prints one line of JSON: the
number of each outcome for each type, and examples of bad outcomes.

Outcomes: executed (a program was started, or a socket opened), escaped (a file was written), crashed, hung, memory
(more than 1 GB), wrong (different values, although the format has digests), unclear (an error that is not raised by
this library, or of more than 500 characters), clear, changed (different values, in a format without digests), unharmed.
"""

import collections
import functools
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
from support.damage import damaged, damaged_json
from support.tensor_file_samples import sample_files
from support.writers import write_both, write_model, write_tokenizer

import jaxmodels
import jaxmodels as jm
from jaxmodels.retrieval.importers import SavedDataset
from jaxmodels.retrieval.index_files import IndexFiles
from jaxmodels.tensor_files import open_folder, open_tensors

LIBRARY = str(Path(jaxmodels.__file__).parent)
SECONDS, MEMORY, BATCH = 10, 2**30, 40
WRITING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.truncate")
RUNNING = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn")


def read_model(folder: Path) -> dict:
    config = jm.load_config(folder)
    return {name: entry.read() for name, entry in open_folder(folder).items()} | {"config": repr(config.to_dict())}


def read_tensors(folder: Path) -> dict:
    [path] = folder.iterdir()
    return {name: entry.read() for name, entry in open_tensors(path).items()}


def read_tokenizer(folder: Path) -> dict:
    tokenizer = jm.load_tokenizer(folder)
    return {
        "ids": np.array(tokenizer("a b w1 [MASK]")["input_ids"]),
        "all": repr(sorted(tokenizer.get_vocab().items())),
    }


def read_rows(folder: Path) -> dict:
    files = IndexFiles(folder)
    return {"rows": np.concatenate([rows for _, (rows, _) in files.read(range(files.manifest.rows))])}


def read_passages(folder: Path) -> dict:
    return {"passages": repr(list(jm.Passages.load(folder)))}


def read_dataset(folder: Path) -> dict:
    saved = SavedDataset(folder)
    return {"passages": repr(list(saved.passages())), "rows": np.concatenate(list(saved.embeddings()))}


def read_settings(folder: Path) -> dict:
    return {"settings": repr(jm.GenerationConfig.from_pretrained(folder))}


def write_pending(folder: Path) -> None:
    """Writes a committed save whose files were not moved into place yet."""
    write_model(folder, 1)
    staging = folder / ".saved"
    staging.mkdir()
    names = ["config.json", "generation_config.json", "model.safetensors"]
    for name in names[:2]:
        (folder / name).rename(staging / name)
    (staging / "order.json").write_text(json.dumps({"sets": ["config", "weights"], "files": names}))


def write_sample(name: str, folder: Path) -> None:
    folder.mkdir()
    (folder / name).write_bytes(sample_files()[name])


def write_dataset(folder: Path) -> None:
    folder.mkdir()
    columns = {"title": ["a", "bc"] * 9, "text": ["text", "of it"] * 9, "embeddings": [[1.0, 2.0], [3.0, 4.0]] * 9}
    table = pyarrow.table(columns)
    with pyarrow.ipc.new_stream(str(folder / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=6)
    described = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(described))


# Type -> function that writes it, function that reads it, and patterns of the files to damage.
FILE_TYPES: dict[str, tuple[Callable, Callable, tuple[str, ...]]] = {
    "config": (lambda f: write_model(f, 1), read_model, ("config.json", "generation_config.json")),
    "settings": (lambda f: write_model(f, 1), read_settings, ("generation_config.json",)),
    "weights": (lambda f: write_model(f, 1), read_model, ("model.safetensors",)),
    "shards": (
        lambda f: write_model(f, 1, max_shard_size=1500),
        read_model,
        ("model.safetensors.index.json", "model-00001-of-*.safetensors"),
    ),
    "pending save": (write_pending, read_model, (".saved/order.json",)),
    **{name: (functools.partial(write_sample, name), read_tensors, (name,)) for name in sample_files()},
    "tokenizer": (
        lambda f: write_tokenizer(f, 3),
        read_tokenizer,
        ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    ),
    "index": (lambda f: write_both(f, 1), read_rows, ("dense_index.json", "embeddings-00001.safetensors")),
    "passages": (lambda f: write_both(f, 1), read_passages, ("passages.arrow",)),
    "dataset": (write_dataset, read_dataset, ("*.arrow", "state.json")),
}
# Types with digests of the values.
DIGESTS = {"index", "passages"}


def outcome(read: Callable, folder: Path, expected: dict, digests: bool) -> tuple[str, str]:
    """Returns the outcome of reading a file, and a description."""
    try:
        found = read(folder)
    except MemoryError as error:
        return "memory", repr(error)[:300]
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        is_raised_here = frame.filename.startswith(LIBRARY) and (frame.line or "").strip().startswith("raise")
        text = f"{type(error).__name__}: {error}"
        if len(str(error)) > 500:
            return "unclear", f"{len(text)} characters: {text[:300]}"
        return "clear" if is_raised_here else "unclear", f"{text[:300]} at {frame.filename}:{frame.lineno}"
    same = found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)
    return "unharmed" if same else "wrong" if digests else "changed", ""


def run_in_child(file_type: str, folder: Path, cases: list[int], seed: int, report: int) -> None:
    """Runs some cases, and writes a line before and after each of them."""
    write, read, patterns = FILE_TYPES[file_type]
    expected, broken = read(folder), []

    def hook(event, args):
        writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if allowed or not (event in RUNNING or event in WRITING or writes):
            return
        broken.append(("executed" if event in RUNNING else "escaped", f"{event} {args[:2]!r}"[:200]))

    allowed = True
    sys.addaudithook(hook)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    for case in cases:
        rng, broken[:] = random.Random(f"{seed} {file_type} {case}"), []
        path = paths[case % len(paths)]
        original = path.read_bytes()
        change = damaged_json if path.suffix == ".json" and rng.random() < 0.7 else damaged
        allowed = True
        path.write_bytes(change(original, rng))
        os.write(report, json.dumps([case, path.name, "begun", ""]).encode() + b"\n")
        signal.alarm(SECONDS)
        allowed = False
        result = outcome(read, folder, expected, file_type in DIGESTS)
        allowed = True
        signal.alarm(0)
        os.write(report, json.dumps([case, path.name, *(broken[0] if broken else result)]).encode() + b"\n")
        path.unlink()
        path.write_bytes(original)
    os._exit(0)


def run_cases(file_type: str, folder: Path, count: int, seed: int) -> list[list]:
    """Returns [case, file, outcome, description] of each case."""
    done: list[list] = []
    FILE_TYPES[file_type][0](folder / "whole")
    while len(done) < count:
        shutil.rmtree(folder / "tried", ignore_errors=True)
        shutil.copytree(folder / "whole", folder / "tried")
        reader, writer = os.pipe()
        cases = list(range(len(done), min(count, len(done) + BATCH)))
        process = os.fork()
        if process == 0:
            try:
                run_in_child(file_type, folder / "tried", cases, seed, writer)
            finally:
                traceback.print_exc()
                os._exit(99)
        os.close(writer)
        with open(reader) as lines:
            last = None
            for line in map(json.loads, lines):
                last = line
                if line[2] != "begun":
                    done.append(line)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status:
            assert last is not None and last[2] == "begun", f"{file_type}: status {status} before a case was tried"
            done.append([*last[:2], "hung" if status == -signal.SIGALRM else "crashed", f"status {status}"])
    return done


def main(folder: Path, count: int, seed: int, file_types: list[str]) -> None:
    warnings.simplefilter("ignore")
    result, examples = {}, []
    for file_type in file_types or FILE_TYPES:
        found = run_cases(file_type, folder / file_type.replace(" ", "_"), count, seed)
        result[file_type] = collections.Counter(each[2] for each in found)
        bad = [each for each in found if each[2] not in ("clear", "changed", "unharmed")]
        examples += [[file_type, *each] for each in bad[:8]]
    print(json.dumps({"outcomes": result, "examples": examples}))


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for name in sys.argv[4:] or FILE_TYPES:
        (root / name.replace(" ", "_")).mkdir(parents=True)
    main(root, int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])

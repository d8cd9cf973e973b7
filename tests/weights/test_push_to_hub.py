"""Pushing a checkpoint to a fake Hub, the model card, and failures."""

import base64
import http.server
import json
import threading

import huggingface_hub
import pytest
from huggingface_hub import constants, utils
from support.loading import quietly, same
from support.tiny import tiny

import jaxmodels as jm
from jaxmodels.hub.push import push, write_card
from jaxmodels.parameters import flatten

NAME = "someone/tiny"


class Hub(http.server.ThreadingHTTPServer):
    """The part of the Hub's API that create_repo and upload_folder use; rejects a wrong token."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.made: dict[str, dict] = {}
        self.files: dict[str, bytes] = {}
        self.messages: list[str] = []


class Requests(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments):
        pass

    def answer(self, value, status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        files = [{"type": "file", "path": path, "oid": "0" * 40, "size": 1} for path in self.server.files]
        if "/tree/" in self.path:
            return self.answer(files)
        names = [{"rfilename": path} for path in self.server.files]
        self.answer({"id": NAME, "sha": "0" * 40, "siblings": names})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer right":
            return self.answer({"error": "Invalid user token."}, 401)
        if self.path.endswith("/validate-yaml"):
            return self.answer({"errors": [], "warnings": []})
        if self.path.endswith("/repos/create"):
            found = json.loads(body)
            self.server.made[f"{found.get('organization')}/{found['name']}"] = found
            return self.answer({"url": f"{self.server.url}/{NAME}"})
        if "/preupload/" in self.path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            return self.answer({"files": files})
        assert "/commit/" in self.path, self.path
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.messages.append(value["summary"])
            elif line["key"] == "file":
                self.server.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del self.server.files[value["path"]]
        # huggingface_hub parses it, but sends no request
        url = f"{constants.ENDPOINT}/{NAME}/commit/1"
        self.answer({"commitUrl": url, "commitOid": "1" * 40, "pullRequestUrl": None})


def forget_connections() -> None:
    """Closes huggingface_hub's session, which caches whether the network may be used; the function has two names."""
    (getattr(utils, "close_session", None) or utils.reset_sessions)()


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    forget_connections()
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()
    monkeypatch.undo()
    forget_connections()


@pytest.fixture
def saved(tmp_path):
    """A folder with a checkpoint, its card, a file of a tokenizer and a private file."""
    model, params = tiny("GPT2LMHeadModel")
    jm.save(tmp_path, model, params)
    write_card(tmp_path, model, flatten(params), NAME)
    (tmp_path / "vocab.json").write_text("{}")
    (tmp_path / "question_encoder_tokenizer").mkdir()
    (tmp_path / "question_encoder_tokenizer/vocab.txt").write_text("a")
    (tmp_path / "secret.txt").write_text("not for others")
    return tmp_path


def test_push_creates_the_repository_and_uploads_the_checkpoint(saved, hub):
    hub.files |= {"model-00001-of-00002.safetensors": b"old", "model.safetensors.index.json": b"{}", "notes.md": b"x"}
    push(saved, NAME, private=True, token="right", commit_message="First", api=huggingface_hub.HfApi(hub.url))
    made = hub.made[NAME]  # release 2 of huggingface_hub has another name for it
    assert made.get("private") is True or made.get("visibility") == "private"
    assert hub.messages == ["First"]
    local = ("README.md", "config.json", "model.safetensors", "vocab.json", "question_encoder_tokenizer/vocab.txt")
    assert hub.files == {name: (saved / name).read_bytes() for name in local} | {"notes.md": b"x"}


def test_save_with_push_to_hub(tmp_path, hub, monkeypatch):
    api = huggingface_hub.HfApi(hub.url)
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(huggingface_hub, name, getattr(api, name))
    model, params = tiny("BartModel", tie_word_embeddings=False)
    jm.save(tmp_path / "here", model, params, push_to_hub=NAME, token="right")
    (tmp_path / "there").mkdir()
    for name, content in hub.files.items():
        (tmp_path / "there" / name).write_bytes(content)
    same(quietly(tmp_path / "there")[1], params)
    assert "README.md" in hub.files


@pytest.mark.parametrize("fault", ["token", "network"])
def test_failed_push_raises_and_leaves_the_folder_intact(fault, tmp_path, hub, monkeypatch):
    url = hub.url if fault == "token" else "http://127.0.0.1:9"
    api = huggingface_hub.HfApi(url)
    for name in ("create_repo", "upload_folder"):
        monkeypatch.setattr(huggingface_hub, name, getattr(api, name))
    model, params = tiny("GPT2LMHeadModel")
    with pytest.raises(OSError, match=f"contains the checkpoint, but the upload to {NAME} failed") as caught:
        jm.save(tmp_path, model, params, push_to_hub=NAME, token="wrong")
    assert f"hf upload {NAME} {tmp_path}" in str(caught.value) and len(str(caught.value).splitlines()) == 1
    same(quietly(tmp_path)[1], params)
    assert not hub.files


def test_contents_of_the_card(saved):
    card = huggingface_hub.ModelCard.load(saved / "README.md")
    tags = ["jaxmodels", "jax", "safetensors", "gpt2"]
    assert card.data.to_dict() == {"library_name": "jaxmodels", "tags": tags}
    model, params = jm.load(saved)
    count = sum(leaf.size for leaf in flatten(params).values())
    for text in ("`GPT2LMHeadModel`", "`gpt2`", f"{count:,}", "float32", f'jm.load("{NAME}")', "n_embd=32"):
        assert text in card.text, text


def test_generated_card_is_updated_and_edited_card_is_not(saved):
    card = saved / "README.md"
    bart, params = tiny("BartModel")
    write_card(saved, bart, flatten(params), NAME)
    assert "`BartModel`" in card.read_text()
    for text in (card.read_text().replace("| class |", "| kind |"), "mine", ""):
        card.write_text(text)
        write_card(saved, *(lambda model, params: (model, flatten(params)))(*tiny("GPT2Model")), NAME)
        assert card.read_text() == text


REFUSED = {
    "a name of three parts": ({"push_to_hub": "a/b/c"}, ValueError, "like 'user/name'"),
    "no name": ({"push_to_hub": True}, TypeError, "like 'user/name'"),
    "a token for nothing": ({"token": "x"}, TypeError, "token: only for a push"),
    "other files": ({"safe_serialization": False}, TypeError, "always safetensors"),
    "another process": ({"is_main_process": True}, TypeError, "first one writes"),
    "a tree of torch": ({"state_dict": {}}, TypeError, "params="),
    "a variant": ({"variant": "fp16"}, TypeError, "file names are fixed"),
    "a branch": ({"push_to_hub": NAME, "revision": "x"}, TypeError, "main branch"),
    "a size that is none": ({"max_shard_size": 1.5}, ValueError, "max_shard_size"),
    "a size of another type": ({"max_shard_size": True}, ValueError, "max_shard_size"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_options_write_nothing(case, tmp_path):
    options, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        jm.save(tmp_path / "x", *tiny("GPT2Model"), **options)
    assert not (tmp_path / "x").exists()

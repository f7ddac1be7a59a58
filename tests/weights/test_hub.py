"""The Hub, played by a server on this machine: fetching, the cache without a network, hashes, saving and pushing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants, errors
from huggingface_hub.utils import _http
from safetensors.torch import save as to_bytes

import senet
from senet.errors import CheckpointError, ConfigError, RunError
from senet.models.net import Preprocessing, ResidualNet
from senet.weights import hub
from senet.weights.fetch import fetch

COMMITS = {"main": "a" * 40, "v1": "b" * 40, "pushed": "c" * 40}
Files = dict[str, bytes]


class Hub:
    """Repositories by name, their files by branch; `asked` is what was requested.

    Where there is a branch "pushed", it takes the place of "main" once config.json was fetched.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Files]] = {}
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                self.wfile.write(hub.answer(self))

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> bytes:
        """/owner/name/resolve/revision/file, as huggingface.co answers it."""
        owner, name, verb, revision, file = [*request.path[1:].split("/", 4), *[""] * 5][:5]
        branches = self.repositories.get(f"{owner}/{name}") if verb == "resolve" else None
        is_pushed = "pushed" in (branches or {}) and "GET config.json" in self.asked
        revision = "pushed" if revision == "main" and is_pushed else revision
        branch = next((b for b, commit in COMMITS.items() if revision in (b, commit)), "")
        files = (branches or {}).get(branch)
        data = (files or {}).get(file)
        fault = "RepoNotFound" if branches is None else "RevisionNotFound" if files is None else "EntryNotFound"
        if verb == "resolve":
            self.asked.append(f"{request.command} {file}")
        request.send_response(404 if data is None else 200)
        if data is None:
            request.send_header("X-Error-Code", fault)
        else:
            request.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        if files is not None:
            request.send_header("X-Repo-Commit", COMMITS[branch])
        request.send_header("Content-Length", str(len(data or b"")))
        request.end_headers()
        return data or b""

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub, and an empty cache."""
    played = Hub()
    # Both are read from the environment (HF_ENDPOINT, HF_HUB_CACHE) when the client is imported.
    monkeypatch.setattr(constants, "ENDPOINT", played.url)
    template = played.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield played
    played.close()


def tiny() -> senet.Network:
    net = senet.get_net("se_resnet20")
    assert isinstance(net, ResidualNet)
    model = senet.create_model(net.depths(1, 1, 1), num_classes=3, seed=7)
    model.preprocessing = Preprocessing(mean=(0.1, 0.2, 0.3), image_size=32, resize=36)
    return model


def same(a: senet.Network, b: senet.Network) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def saved(model: senet.Network, folder: Path, **about: object) -> Files:
    hub.save_pretrained(model, folder, **about)  # type: ignore[arg-type]
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_fetch_then_again_without_a_network(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny()
    server.repositories["owner/net"] = {"main": saved(model, tmp_path / "net")}
    folder = fetch("hf:owner/net")
    assert folder.name == COMMITS["main"]
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert server.asked == ["HEAD config.json", "GET config.json", "HEAD model.safetensors", "GET model.safetensors"]

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.asked.clear()
    again = senet.from_pretrained("owner/net")
    assert same(again, model)
    assert capsys.readouterr().out.startswith("hf:owner/net: weights in the names of senet")
    assert (again.net, again.preprocessing, again.training) == (model.net, model.preprocessing, False)
    assert fetch(f"hf:owner/net@{COMMITS['main']}") == folder
    assert server.asked == []
    with pytest.raises(CheckpointError, match=r"owner/other: is not in the cache .*cache, and HF_HUB_OFFLINE is set"):
        fetch("hf:owner/other")


def test_without_a_network_the_cache_serves_and_the_rest_is_said(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a config.json, as timm's older repositories.
    server.repositories["timm/net.tag"] = {"main": {"pytorch_model.bin": b"weights"}}
    folder = fetch("timm:net.tag")
    assert [p.name for p in folder.iterdir()] == ["pytorch_model.bin"]
    server.close()
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    assert fetch("timm:net.tag") == folder
    with pytest.raises(CheckpointError, match=rf"timm:other: is not in the .*, and {server.url} cannot be reached"):
        fetch("timm:other")


def test_revisions(server: Hub) -> None:
    server.repositories["owner/net"] = {"main": {"model.safetensors": b"new"}, "v1": {"model.safetensors": b"old"}}
    for revision, data in (("", b"new"), ("@v1", b"old"), (f"@{COMMITS['v1']}", b"old")):
        assert (fetch(f"hf:owner/net{revision}") / "model.safetensors").read_bytes() == data
    server.repositories["owner/moving"] = {
        branch: {"config.json": b"{}", "model.safetensors": branch.encode()} for branch in ("main", "pushed")
    }
    # A push between two of its files does not mix them.
    assert (fetch("hf:owner/moving") / "model.safetensors").read_bytes() == b"main"
    assert (fetch("hf:owner/moving") / "model.safetensors").read_bytes() == b"pushed"
    with pytest.raises(CheckpointError, match="hf:owner/net@v2: owner/net has no revision 'v2'"):
        fetch("hf:owner/net@v2")


def test_hashes(server: Hub, tmp_path: Path) -> None:
    server.repositories["owner/net"] = {"main": {"config.json": b"{}", "model.safetensors": b"weights"}}
    digest = hashlib.sha256(b"weights").hexdigest()
    folder = fetch(f"hf:owner/net@main#sha256={digest}")
    for path in (folder, folder / "model.safetensors"):
        assert fetch(f"{path}#sha256={digest[:8].upper()}") == path
        for wrong in ("0" * 64, digest[:-1] + ("1" if digest[-1] == "0" else "0")):
            with pytest.raises(CheckpointError, match=f"its sha256 is {digest}; expected: {wrong}"):
                fetch(f"{path}#sha256={wrong}")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: its sha256 is"):
        fetch("hf:owner/net#sha256=00000000")
    with pytest.raises(CheckpointError, match="none: cannot be read: No such file"):
        fetch(f"{tmp_path / 'none'}#sha256={digest}")
    for bad in ("", digest[:7], digest + "0", "wxyzwxyz"):
        with pytest.raises(ConfigError, match="must end in 8 to 64 hexadecimal digits"):
            fetch(f"hf:owner/net#sha256={bad}")


def test_what_is_not_there(server: Hub) -> None:
    server.repositories["owner/net"] = {"main": {"config.json": b"{}", "weights.h5": b""}}
    with pytest.raises(CheckpointError, match="the Hub has no repository timm/nosuch, or it is private"):
        fetch("timm:nosuch")
    with pytest.raises(CheckpointError, match=r"owner/net has neither model\.safetensors nor pytorch_model\.bin"):
        fetch("hf:owner/net")
    with pytest.raises(ConfigError, match="'hf:a/b/c' names no repository; it is like 'hf:owner/name@revision'"):
        fetch("hf:a/b/c")


def test_a_repository_of_timm(server: Hub) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("seresnet50", layers=(1, 1, 1, 1), num_classes=5).eval()
    cfg = {
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
        "input_size": [3, 288, 288],
        "crop_pct": 1.0,
        "interpolation": "bicubic",
    }
    config = {"architecture": "seresnet50", "num_classes": 5, "pretrained_cfg": cfg}
    server.repositories["timm/seresnet50.tag"] = {
        "main": {"config.json": json.dumps(config).encode(), "model.safetensors": to_bytes(theirs.state_dict())}
    }
    net = senet.get_net("se_resnet50")
    assert isinstance(net, ResidualNet)
    model = senet.create_model(net.depths(1, 1, 1, 1), num_classes=5, weights="timm:seresnet50.tag").eval()
    assert model.preprocessing == Preprocessing(
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), image_size=288, resize=288, interpolation="bicubic"
    )
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_saved_and_read_back(tmp_path: Path) -> None:
    model = tiny()
    about = {"classes": ["a", "b", "c"], "metrics": {"top1_error": 3.25}, "license": "mit", "name": "my_net"}
    files = saved(model, tmp_path / "net", **about)
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    again = senet.from_pretrained(tmp_path / "net", quiet=True)
    assert same(again, model)
    assert (again.net, again.preprocessing) == (model.net, model.preprocessing)

    config = json.loads(files["config.json"])
    assert senet.from_dict(senet.Net, config["model"]) == model.net
    assert (config["classes"], config["architecture"]) == (["a", "b", "c"], "my_net")
    assert config["preprocessing"]["mean"] == [0.1, 0.2, 0.3]

    card = ModelCard.load(tmp_path / "net" / "README.md")
    assert (card.data.library_name, card.data.license) == ("senet", "mit")
    assert {"squeeze-and-excitation", "pytorch_model_hub_mixin"} <= set(card.data.tags or ())
    assert "| top1_error | 3.25 |" in card.text
    assert 'senet.from_pretrained("net")' in card.text

    # The weights' file by itself is a checkpoint.
    checkpoint = senet.load(tmp_path / "net" / "model.safetensors")
    assert same(checkpoint.model, model)
    assert (checkpoint.classes, checkpoint.measurements) == (("a", "b", "c"), {"top1_error": 3.25})
    data = checkpoint.recipe.data
    assert (data.image_size, data.resize) == (32, 36)
    assert data.mean == (0.1, 0.2, 0.3)


def test_saved_again_the_card_stays(tmp_path: Path) -> None:
    saved(tiny(), tmp_path)
    (tmp_path / "README.md").write_text("mine")
    changed = tiny()
    with torch.no_grad():
        changed.classifier.bias += 1  # type: ignore[operator]
    saved(changed, tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert same(senet.from_pretrained(tmp_path, quiet=True), changed)


def test_without_classes_it_is_a_network_and_no_checkpoint(tmp_path: Path) -> None:
    card = saved(tiny(), tmp_path)["README.md"].decode()
    assert "- Outputs: 3\n" in card
    with pytest.raises(CheckpointError, match=r"no preprocessing or no classes; senet\.from_pretr"):
        senet.load(tmp_path)
    drawn = tiny()
    drawn.preprocessing = None
    card = saved(drawn, tmp_path / "drawn", classes=["a", "b", "c"])["README.md"].decode()
    assert "- Outputs: 3; their names are in `config.json`\n- Images: not stated\n" in card
    with pytest.raises(CheckpointError, match="states no preprocessing or no classes"):
        senet.load(tmp_path / "drawn")


def test_a_network_with_inserted_units_is_not_saved(tmp_path: Path) -> None:
    model = tiny()
    senet.insert_(model, senet.SEConfig(), "features.stem.conv")
    with pytest.raises(ConfigError, match=r"insert_ .*senet\.remove_ them, or torch\.save its state dict"):
        hub.save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_grey_network_and_a_missing_folder(tmp_path: Path) -> None:
    net = senet.get_net("se_resnet20")
    assert isinstance(net, ResidualNet)
    model = senet.create_model(net.depths(1, 1, 1), num_classes=2, in_channels=1)
    model.preprocessing = Preprocessing(mean=(0.485,), std=(0.224,), image_size=32, resize=32)
    card = saved(model, tmp_path / "net", classes=["a", "b"])["README.md"].decode()
    assert "grey from 0 to 1" in card
    for again in (senet.from_pretrained(tmp_path / "net", quiet=True), senet.load(tmp_path / "net").model):
        assert again.preprocessing == model.preprocessing
    assert senet.load(tmp_path / "net").recipe.data.std == (0.224,)
    with pytest.raises(CheckpointError, match=r"/no/such/folder: no such file or folder"):
        senet.from_pretrained("/no/such/folder")


def test_mistakes_in_saving(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="classes: 2 names; expected: 3, one per output"):
        hub.save_pretrained(tiny(), tmp_path / "new", classes=["a", "b"])
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write to .*file"):
        hub.save_pretrained(tiny(), tmp_path / "file")
    with pytest.raises(ConfigError, match="revision: 'v1' has no effect on"):
        senet.from_pretrained(tmp_path, revision="v1")


def test_push(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: dict[str, dict] = {}
    sent: Files = {}

    def create_repo(self: HfApi, repo_id: str, **options: object) -> object:
        calls["create"] = {"repo_id": repo_id, **options}
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self: HfApi, *, folder_path: Path, **options: object) -> str:
        calls["upload"] = options
        sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
        return "https://huggingface.co/owner/net/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    url = hub.push_to_hub(tiny(), "owner/net", license="mit", private=True, branch="v1", message="Hello")
    assert url.endswith("/commit/1")
    assert calls["create"] == {"repo_id": "owner/net", "private": True, "exist_ok": True}
    assert {key: calls["upload"][key] for key in ("repo_id", "repo_type", "revision", "commit_message")} == {
        "repo_id": "owner/net",
        "repo_type": "model",
        "revision": "v1",
        "commit_message": "Hello",
    }
    assert sorted(sent) == ["README.md", "config.json", "model.safetensors"]
    assert b'senet.from_pretrained("owner/net")' in sent["README.md"]

    def refused(self: HfApi, repo_id: str, **options: object) -> object:
        raise errors.LocalTokenNotFoundError("Token is required\nto do this")

    monkeypatch.setattr(HfApi, "create_repo", refused)
    with pytest.raises(RunError, match=r"cannot push to owner/net: Token is required$"):
        hub.push_to_hub(tiny(), "owner/net")

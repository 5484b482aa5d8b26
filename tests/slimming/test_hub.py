"""Slim networks to and from a Hub repository, against a local stand-in of its HTTP interface."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from knapsack_prune.errors import RequestError
from knapsack_prune.slimming.hub import pull_slim, push_slim

pytest.importorskip("huggingface_hub", reason="pip install 'knapsack-prune[hub]'")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GOLDEN = (Path(__file__).parents[1] / "planning" / "golden_plan.json").read_text()


class Repository(BaseHTTPRequestHandler):
    """The part of the Hub that one repository of small files needs."""

    files: dict[str, bytes] = {}  # noqa: RUF012
    unknown: list[str] = []  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        pass

    def _send(self, body: bytes, *, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, content: object) -> None:
        self._send(json.dumps(content).encode(), Content_Type="application/json")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        here = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            self._json({"url": f"{here}/me/net", "id": "1", "name": "me/net"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self._json(
                {
                    "files": [
                        {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked
                    ]
                }
            )
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    self.files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            self._json({"success": True, "commitUrl": f"{here}/me/net/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.unknown.append(self.path)
            self._send(b"", status=404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/me/net/tree/"):
            self._json(
                [
                    {"type": "file", "path": name, "size": len(data), "oid": "1"}
                    for name, data in self.files.items()
                ]
            )
        elif path.startswith("/api/models/me/net"):
            self._json(
                {"id": "me/net", "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.files]}
            )
        elif path.startswith("/me/net/resolve/") and path.split("/")[-1] in self.files:
            data = self.files[path.split("/")[-1]]
            tag = hashlib.sha1(data).hexdigest()
            self._send(data, ETag=f'"{tag}"', X_Repo_Commit=COMMIT)
        else:
            self.unknown.append(self.path)
            self._send(b'{"error": "not found"}', status=404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    Repository.files, Repository.unknown = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Repository)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def slim(tmp_path: Path) -> Path:
    folder = tmp_path / "slim"
    folder.mkdir()
    (folder / "plan.json").write_text(GOLDEN.replace('"version": 0', '"version": "1"'))
    (folder / "config.json").write_text(json.dumps({"format": "knapsack-prune-slim", "version": 1}))
    (folder / "model.safetensors").write_bytes(bytes(range(200)))
    (folder / "code.py").write_text("print('not data')")
    return folder


@pytest.mark.filterwarnings("ignore")
def test_a_slim_network_goes_to_the_hub_and_comes_back(hub: str, slim: Path, tmp_path: Path) -> None:
    assert COMMIT in push_slim(slim, "me/net", endpoint=hub)
    assert set(Repository.files) == {"plan.json", "config.json", "model.safetensors"}  # and no code
    back = pull_slim("me/net", tmp_path / "back", endpoint=hub)
    for name in Repository.files:
        assert (back / name).read_bytes() == (slim / name).read_bytes()


@pytest.mark.filterwarnings("ignore")
def test_a_repository_that_is_none_is_told_in_one_message(hub: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="the Hub did not take or give me/absent") as caught:
        pull_slim("me/absent", tmp_path / "back", endpoint=hub)
    assert "\n" not in str(caught.value)
    Repository.files["README.md"] = b"only words"
    with pytest.raises(RequestError, match=r"no slim network: config\.json"):
        pull_slim("me/net", tmp_path / "other", endpoint=hub)


def test_what_is_no_slim_network_is_not_pushed(slim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (slim / "config.json").write_text("{}")
    with pytest.raises(RequestError, match="not of a slim network"):
        push_slim(slim, "me/net")
    (slim / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"model\.safetensors is missing"):
        push_slim(slim, "me/net")


def test_without_the_extra_it_is_named(slim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("knapsack_prune.slimming.hub.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'knapsack-prune\[hub\]'"):
        push_slim(slim, "me/net")

"""Fetching weights: every kind of location, and each way in which a download can fail, without a network."""

import hashlib
import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request

import pytest
import torch

from reals.models import weights
from reals.models.weights import HttpsOnly, cache_directory, fetch, read_weights, select_tensors
from reals.runtime.errors import UserError
from reals.runtime.io import save_state, save_tensors

ADDRESS = "https://example.org/models/small-net.bin?version=2"
CONTENT = bytes(range(256)) * 10_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Answer(io.BytesIO):
    """A response of a web server, as urllib gives it."""

    def __init__(self, content: bytes, size: int | None):
        super().__init__(content)
        self.headers = {} if size is None else {"Content-Length": str(size)}


class Server:
    """Opens addresses: counts how often, and answers always the same."""

    def __init__(self, content: bytes = CONTENT, size: int | None = len(CONTENT)):
        self.asked: list[str] = []
        self._content, self._size = content, size

    def __call__(self, address: str) -> Answer:
        self.asked.append(address)
        return Answer(self._content, self._size)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REALS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(directory: Path) -> list[str]:
    """What is there for a user to see, and what should have been removed."""
    return sorted(path.name for path in directory.rglob("*") if path.is_file() and path.suffix != ".lock")


def refusal(location: str, *arguments: Any, **keywords: Any) -> str:
    """The one line with which a location is refused."""
    with pytest.raises(UserError) as caught:
        fetch(location, *arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_path_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.pth").write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fetch(str(tmp_path / "net.pth")) == fetch(str(tmp_path / "net.pth"), abc.upper()) == tmp_path / "net.pth"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fetch("~/net.pth") == tmp_path / "net.pth"


def test_another_file_than_expected_names_both_hashes(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"abc")
    message = refusal(str(tmp_path / "net.pth"), "0" * 64)
    assert "net.pth: has the SHA-256 ba7816bf8f01" in message
    assert f"instead of {'0' * 64}" in message


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nowhere/net.pth", "nowhere/net.pth: no such file"),
        (".", "is a directory; give the weights file"),
        ("http://example.org/net.pth", "only https addresses are read"),
        ("ftp://example.org/net.pth", "only https addresses are read"),
        ("owner/never-existed:net.pth", r"could not be downloaded \(.*give its path"),
    ],
)
def test_unusable_locations(location: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        fetch(location)
    assert "\n" not in str(caught.value)


def test_a_hub_file_is_asked_for_by_repository_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    (tmp_path / "net.bin").write_bytes(CONTENT)
    asked = []

    def download(repository: str, file: str) -> str:
        asked.append((repository, file))
        return str(tmp_path / "net.bin")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert fetch("an-owner/a_net.v1:folder/net.bin", SHA256) == tmp_path / "net.bin"
    assert asked == [("an-owner/a_net.v1", "folder/net.bin")]


def test_a_download_is_kept_under_its_name(cache: Path) -> None:
    server = Server()
    path = fetch(ADDRESS, SHA256, opener=server)
    assert path.read_bytes() == CONTENT
    assert path.name == "small-net.bin"
    assert cache in path.parents
    assert fetch(ADDRESS, SHA256, opener=server) == path
    assert server.asked == [ADDRESS]
    assert files(cache) == ["small-net.bin"]


def test_those_who_ask_at_once_download_once() -> None:
    server = Server()

    def slowly(address: str) -> Answer:
        answer = server(address)
        time.sleep(0.2)
        return answer

    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: fetch(ADDRESS, SHA256, opener=slowly), range(4)))
    assert len(paths) == len(server.asked) == 1


def test_addresses_with_the_same_ending_are_kept_apart() -> None:
    server = Server()
    assert fetch(ADDRESS, opener=server) != fetch(ADDRESS.replace("models", "other"), opener=server)
    assert len(server.asked) == 2


def test_a_server_need_not_know_the_size() -> None:
    assert fetch(ADDRESS, SHA256, opener=Server(size=None)).read_bytes() == CONTENT


def test_a_truncated_download_leaves_nothing(cache: Path) -> None:
    message = refusal(ADDRESS, opener=Server(CONTENT[:1000]))
    assert "ended after 1000 of 2560000 bytes" in message
    assert files(cache) == []
    assert fetch(ADDRESS, opener=Server()).read_bytes() == CONTENT


def test_a_wrong_download_leaves_nothing(cache: Path) -> None:
    message = refusal(ADDRESS, "1" * 64, opener=Server())
    assert message.startswith(f"{ADDRESS}: has the SHA-256 {SHA256} instead of {'1' * 64}")
    assert files(cache) == []


def test_a_copy_that_was_damaged_later_is_found() -> None:
    path = fetch(ADDRESS, SHA256, opener=Server())
    path.write_bytes(CONTENT[:-1])
    assert f"{path}: has the SHA-256" in refusal(ADDRESS, SHA256, opener=Server())


def test_an_unreachable_address_says_what_to_do(cache: Path) -> None:
    def unreachable(address: str) -> Answer:
        raise URLError("Name or service not known")

    message = refusal(ADDRESS, opener=unreachable)
    assert "Name or service not known" in message
    assert "download it on a connected machine and give its path" in message
    assert files(cache) == []


def test_a_connection_lost_on_the_way_says_what_to_do(cache: Path) -> None:
    class Lost(Answer):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise ConnectionResetError("Connection reset by peer")
            return super().read(size)

    message = refusal(ADDRESS, opener=lambda _: Lost(CONTENT, len(CONTENT)))
    assert "Connection reset by peer" in message
    assert files(cache) == []


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    server = Server()
    assert "cannot be written (Not a directory); set REALS_CACHE" in refusal(ADDRESS, opener=server)
    assert server.asked == []


def test_redirections_stay_encrypted() -> None:
    request = Request("https://example.org/net.bin")
    followed = HttpsOnly().redirect_request(request, None, 302, "Found", {}, "https://example.com/net.bin")
    assert followed.full_url == "https://example.com/net.bin"
    with pytest.raises(URLError, match="not https"):
        HttpsOnly().redirect_request(request, None, 302, "Found", {}, "http://example.com/net.bin")


def test_where_downloads_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("REALS_CACHE")
    assert cache_directory() == Path("/xdg/reals")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_directory() == tmp_path / ".cache" / "reals"


def test_both_formats_are_read(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    save_tensors(tmp_path / "net.safetensors", tensors)
    save_state(tmp_path / "net.pth", {"state_dict": tensors, "epoch": 3})
    read = read_weights(str(tmp_path / "net.safetensors"))
    assert read.keys() == tensors.keys()
    assert torch.equal(read["a"], tensors["a"])
    checkpoint = read_weights(str(tmp_path / "net.pth"))
    assert checkpoint["epoch"] == 3
    assert torch.equal(checkpoint["state_dict"]["b"], tensors["b"])


def test_reading_checks_the_hash(tmp_path: Path) -> None:
    save_tensors(tmp_path / "net.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(UserError, match="instead of 2222"):
        read_weights(str(tmp_path / "net.safetensors"), "2" * 64)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.ckpt").write_bytes(CONTENT)
    with pytest.raises(UserError, match=r"net\.ckpt: not a whole file of tensors"):
        read_weights(str(tmp_path / "net.ckpt"))


def test_tensors_are_selected_by_name_and_shape() -> None:
    like = {"x": torch.empty(2, device="meta"), "count": torch.empty((), dtype=torch.int64, device="meta")}
    state = {"net.x": torch.ones(2, dtype=torch.float16), "net.count": torch.tensor(7), "net.other": torch.zeros(9)}
    selected = select_tensors(state, like, "net.pth", "TinyNet", prefix="net.")
    assert selected.keys() == like.keys()
    assert (selected["x"].dtype, selected["count"].item()) == (torch.float32, 7)
    with pytest.raises(UserError, match=r"net\.pth: has no tensor 'x'; give a file with the weights of a TinyNet"):
        select_tensors(state, like, "net.pth", "TinyNet")
    with pytest.raises(UserError, match=r"'net\.x' is \[2\] instead of \[3\]"):
        select_tensors(state, {"x": torch.empty(3)}, "net.pth", "TinyNet", prefix="net.")


def test_a_download_is_shown_in_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []

    def progress(description: str, total: int, unit: str) -> Any:
        shown.append(weights.Progress(description, total, unit))
        return weights.nullcontext(shown[-1])

    monkeypatch.setattr(weights, "progress", progress)
    fetch(ADDRESS, opener=Server())
    assert [(one.description, one.done, one.total, one.unit) for one in shown] == [
        ("Downloading small-net.bin", 2, 2, "MB")
    ]

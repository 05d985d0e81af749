"""To the hub and back, through a client that keeps repositories in memory; what the card says is true."""

import inspect
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors.torch import load_file

from reals.apps.export import export_autoencoder
from reals.apps.importing import import_autoencoder
from reals.apps.sharing import HubClient, pull, push
from reals.latents.codec import LatentCodec
from reals.latents.normalise import LatentNormalisation
from reals.models.autoencoder import save_autoencoder
from reals.runtime.errors import UserError
from tests.apps import exchanged

NAME = "someone/vae"


@dataclass
class Hub:
    """A client whose repositories are {name: {file: bytes}}."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    revision: str | None = "not asked"

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> None:
        assert exist_ok
        if repo_id not in self.repositories:
            self.repositories[repo_id] = {}
            self.private[repo_id] = bool(private)

    def repo_info(self, repo_id: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.private[repo_id])

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        assert commit_message
        self.repositories[repo_id] |= {path.name: path.read_bytes() for path in folder_path.iterdir()}

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, local_dir: Path, allow_patterns: list[str]
    ) -> None:
        self.revision = revision
        (local_dir / ".cache" / "huggingface").mkdir(parents=True)
        for name, content in self.repositories[repo_id].items():
            if any(Path(name).match(pattern) for pattern in allow_patterns):
                (local_dir / name).write_bytes(content)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    return exchanged.trained(tmp_path / "run" / "aligned" / "autoencoder")


def card(hub: Hub, name: str = NAME) -> str:
    return hub.repositories[name]["README.md"].decode()


def test_the_real_client_is_called_as_it_wants() -> None:
    for name, method in inspect.getmembers(HubClient, inspect.isfunction):
        if not name.startswith("_"):
            theirs = inspect.signature(getattr(HfApi, name)).parameters
            assert set(inspect.signature(method).parameters) <= set(theirs), name


def test_there_and_back(trained: Path, tmp_path: Path, hub: Hub) -> None:
    assert push(trained, NAME, client=hub) == "https://huggingface.co/someone/vae"
    assert not (trained / "README.md").exists()
    out = pull(NAME, tmp_path / "out", revision="main", client=hub)
    assert hub.revision == "main"
    assert exchanged.same(trained, out, but=frozenset({"README.md"}))
    assert {path.name for path in out.iterdir()} == {path.name for path in trained.iterdir()} | {"README.md"}
    assert LatentCodec.from_directory(out).fingerprint == LatentCodec.from_directory(trained).fingerprint


def test_only_an_autoencoders_files_travel(
    trained: Path, tmp_path: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    (trained / "token.txt").write_text("secret")
    (trained / "photos").mkdir()
    push(trained, NAME, client=hub)
    assert not {"token.txt", "photos"} & set(hub.repositories[NAME])
    assert "left here, as no part of an autoencoder: photos, token.txt" in capsys.readouterr().err
    hub.repositories[NAME]["evil.py"] = b"import os"
    assert not (pull(NAME, tmp_path / "out", client=hub) / "evil.py").exists()


@pytest.mark.parametrize("shape", ["factors", "folded", "pipeline factor", "scaled only", "float16"])
@torch.no_grad()
def test_the_snippet_of_the_card_is_right(shape: str, trained: Path, tmp_path: Path, hub: Hub) -> None:
    source = trained
    if shape == "folded":
        source = export_autoencoder(str(trained), tmp_path / "folded", normalisation="folded")
    elif shape == "pipeline factor":
        source = export_autoencoder(str(trained), tmp_path / "folded", normalisation="folded", pipeline_factor=0.18215)
    elif shape == "float16":
        source = export_autoencoder(str(trained), tmp_path / "half", dtype="float16")
    elif shape == "scaled only":
        network = exchanged.autoencoder()
        network.register_to_config(scaling_factor=0.25)
        save_autoencoder(network, tmp_path / "scaled")
        source = tmp_path / "scaled"
    push(source, NAME, client=hub)
    (snippet,) = re.findall(r"```python\n(.*?)```", card(hub), re.DOTALL)
    names: dict[str, Any] = {"pixels": exchanged.pixels()}
    torch.manual_seed(0)
    exec(snippet.replace(f'"{NAME}"', repr(str(pull(NAME, tmp_path / "out", client=hub)))), names)
    codec = LatentCodec.from_directory(source)
    torch.manual_seed(0)
    (posterior,) = codec.autoencoder.encode(exchanged.pixels(), return_dict=False)
    latents = codec.normalisation.normalise(posterior.sample())
    assert torch.equal(names["latents"], latents)
    torch.testing.assert_close(names["images"], codec.decode(latents))
    if shape == "scaled only":
        assert codec.normalisation == LatentNormalisation(shift=0.0, scale=0.25)
    elif shape != "float16":
        reference = LatentCodec.from_directory(trained).normalisation.scale
        torch.testing.assert_close(
            names["latents"].std() / exchanged_std(trained), torch.tensor(reference), rtol=1e-3, atol=0
        )


def exchanged_std(directory: Path) -> torch.Tensor:
    """The deviation of the raw latents that the snippet drew."""
    torch.manual_seed(0)
    (posterior,) = LatentCodec.from_directory(directory).autoencoder.encode(exchanged.pixels(), return_dict=False)
    return posterior.sample().std()


def test_what_the_card_says(trained: Path, hub: Hub) -> None:
    recipe = {"semantic": {"type": "DinoV2", "model": "facebook/dinov2-with-registers-large"}}
    (trained.parent.parent / "run.json").write_text(json.dumps({"format": 1, "recipe": recipe}))
    push(trained, NAME, license_name="cc-by-nc-4.0", client=hub)
    text = card(hub)
    data = ModelCard(text).data.to_dict()
    assert (data["license"], data["library_name"]) == ("cc-by-nc-4.0", "diffusers")
    assert "representation-alignment" in data["tags"]
    assert "facebook/dinov2-with-registers-large, λ_a = 0.5" in text
    assert "2x2 pixels become one latent cell of 3 channels" in text
    assert f"`shift_factor` {exchanged.MAP.shift!r} and `scaling_factor` {exchanged.MAP.scale!r}" in text
    assert "over 123 images" in text
    assert "| 0.3 | 1.7 | -6.1 | 7.9 |" in text
    assert "align_heads.safetensors" in text
    assert "## Measured" not in text


def test_what_nobody_recorded_is_not_invented(tmp_path: Path, hub: Hub) -> None:
    save_autoencoder(exchanged.autoencoder(), tmp_path / "plain")
    push(tmp_path / "plain", NAME, client=hub)
    text = card(hub)
    assert "license" not in ModelCard(text).data.to_dict()
    assert "Nothing beside it says that its latents were aligned" in text
    assert "None: shift is 0 and scale 1" in text
    for absent in ("λ_a", "DINO", "statistics", "align_heads", "## Measured"):
        assert absent not in text
    (tmp_path / "mean_std.json").write_text('{"mean": 0.0, "std": 1.0, "min": -2.0, "max": 3.0}')
    exchanged.heads().save(tmp_path / "plain")
    (tmp_path / "plain" / "mean_std.json").write_text('{"mean": 0.0, "std": 1.0, "min": -2.0, "max": 3.0}')
    push(import_autoencoder(str(tmp_path / "plain"), tmp_path / "out"), "someone/other", client=hub)
    text = card(hub, "someone/other")
    assert "a number of images that is not recorded" in text
    assert "which one is not recorded, λ_a = 0.5" in text


def test_a_folded_card_says_so(trained: Path, tmp_path: Path, hub: Hub) -> None:
    push(export_autoencoder(str(trained), tmp_path / "folded", normalisation="folded"), NAME, client=hub)
    text = card(hub)
    assert f"`z -> (z - {exchanged.MAP.shift!r}) * {exchanged.MAP.scale!r}`; do not apply it again" in text
    assert "What `encode` gives is what a generator should see" in text
    assert "clamp to [-30, 20]" in text
    assert str(tmp_path) not in text


def test_measurements_of_a_run_and_of_evaluate(trained: Path, hub: Hub) -> None:
    values = {"reconstruction/psnr": 21.5, "latents/min": None, "samples/guidance-2/fd/x": 9.0}
    protocol = {
        "reconstructions": {"what": "held-out photos, decoded posterior means", "count": 77},
        "data": {"held_out": 500, "image_size": 32, "location": "/home/someone/photos"},
        "feature_networks": {"x": {"seen_by_alignment": True}, "y": {"seen_by_alignment": False}},
    }
    run = {"arms": {"baseline": {"reconstruction/psnr": 30.0}, "aligned": values}, "protocol": protocol}
    (trained.parent.parent / "run.json").write_text(json.dumps({"format": 1, "recipe": {}}))
    (trained.parent.parent / "metrics.json").write_text(json.dumps(run))
    push(trained, NAME, client=hub)
    text = card(hub)
    assert "| reconstruction/psnr | 21.5 |" in text
    assert "On 77 held-out images of 32 pixels" in text
    assert "`x` has seen" in text
    for absent in ("30", "samples/guidance", "`y` has seen", "/home/someone"):
        assert absent not in text.partition("## Measured")[2]
    evaluation = {
        "metrics": {"fd/x": {"value": 3.25, "low": 3.0, "high": 3.5}},
        "warnings": ["samples: few"],
        "protocol": {"reference": {"location": "/home/someone", "images": 40, "size": "32x32"}},
    }
    (trained / "metrics.json").write_text(json.dumps(evaluation))
    push(trained, NAME, client=hub)
    text = card(hub)
    assert "| fd/x | 3.25 (3 to 3.5) |" in text
    assert "reference: 40 images of 32x32" in text
    assert "samples: few" in text
    assert "/home/someone" not in text
    assert "metrics.json" not in hub.repositories[NAME]
    (trained / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="is neither a run's metrics nor the result of reals evaluate"):
        push(trained, NAME, client=hub)


def test_a_card_of_ones_own_is_taken(trained: Path, hub: Hub) -> None:
    (trained / "README.md").write_text("# Mine\n")
    push(trained, NAME, client=hub)
    assert card(hub) == "# Mine\n"
    with pytest.raises(UserError, match=r"README\.md: is taken as it is; name the license in it"):
        push(trained, NAME, license_name="mit", client=hub)


def test_a_public_repository_does_not_become_private(trained: Path, hub: Hub) -> None:
    push(trained, "someone/secret", private=True, client=hub)
    assert hub.private["someone/secret"]
    push(trained, "someone/secret", private=True, client=hub)
    hub.create_repo(NAME, private=False, exist_ok=True)
    with pytest.raises(UserError, match="someone/vae: exists and is public"):
        push(trained, NAME, private=True, client=hub)
    assert hub.repositories[NAME] == {}


@pytest.mark.parametrize("license_name", ["Apache 2.0", "mit\ntags: [x]", ""])
def test_a_license_that_is_no_identifier(license_name: str, trained: Path, hub: Hub) -> None:
    with pytest.raises(UserError, match="write the hub's identifier"):
        push(trained, NAME, license_name=license_name, client=hub)


@pytest.mark.parametrize("name", ["vae", "a/b/c", "/vae", "owner/"])
def test_a_name_that_is_none(name: str, trained: Path, tmp_path: Path, hub: Hub) -> None:
    for call in (lambda: push(trained, name, client=hub), lambda: pull(name, tmp_path / "out", client=hub)):
        with pytest.raises(UserError, match="is no repository's name; write owner/name"):
            call()


def test_no_autoencoder_to_push(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(UserError, match="absent: no such directory; give the directory of an autoencoder"):
        push(tmp_path / "absent", NAME, client=hub)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no readable AutoencoderKL"):
        push(tmp_path / "empty", NAME, client=hub)
    assert hub.repositories == {}


def test_no_token(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="no Hugging Face token is known; run 'hf auth login', or set HF_TOKEN"):
        push(trained, NAME)


def test_the_real_client_without_a_connection(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="pull someone/vae: the Hugging Face hub refused or could not be reached"
    ) as caught:
        pull(NAME, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Refusing(Hub):
    """A client whose uploads fail."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        raise self.error


def test_the_hubs_errors_are_one_line_and_our_own_are_not_hidden(trained: Path) -> None:
    for error in (OfflineModeIsEnabled("offline\nsecond line"), ConnectionError("offline"), TimeoutError("offline")):
        with pytest.raises(UserError, match=r"push someone/vae: the Hugging Face hub refused .* \(offline\)"):
            push(trained, NAME, client=Refusing(error))
    with pytest.raises(KeyError):
        push(trained, NAME, client=Refusing(KeyError("a mistake of ours")))


def test_pull_leaves_nothing_half(trained: Path, tmp_path: Path, hub: Hub) -> None:
    push(trained, NAME, client=hub)
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match="exists already; give another --out"):
        pull(NAME, trained, client=hub)
    weights = hub.repositories[NAME][exchanged.WEIGHTS]
    hub.repositories[NAME][exchanged.WEIGHTS] = weights[: len(weights) // 2]
    with pytest.raises(UserError, match="someone/vae: what arrived: holds no readable AutoencoderKL"):
        pull(NAME, tmp_path / "out", client=hub)
    del hub.repositories[NAME]["config.json"]
    with pytest.raises(UserError, match=r"has no config\.json at its top"):
        pull(NAME, tmp_path / "out", client=hub)
    assert set(tmp_path.iterdir()) == before
    assert load_file(trained / exchanged.WEIGHTS)

"""``reals push`` and ``reals pull``: autoencoders to and from the Hugging Face Hub."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from reals.apps.card import METRICS_NAME, check_license, gather_facts, model_card
from reals.apps.origin import ORIGIN_NAME
from reals.latents.align import CONFIG_NAME as HEADS_CONFIG
from reals.latents.align import WEIGHTS_NAME as HEADS_WEIGHTS
from reals.latents.normalise import LatentNormalisation
from reals.latents.statistics import STATISTICS_NAME
from reals.models.autoencoder import load_autoencoder
from reals.models.hub import quiet
from reals.runtime.errors import UserError
from reals.runtime.io import atomic_directory, refuse_existing
from reals.runtime.progress import say

_WEIGHTS = "diffusion_pytorch_model*.safetensors*"
_CARD = "README.md"
# What travels, and nothing else that may lie in the directory.
_FILES = ("config.json", STATISTICS_NAME, HEADS_CONFIG, HEADS_WEIGHTS, ORIGIN_NAME, _CARD)


@runtime_checkable
class HubClient(Protocol):
    """What is needed of ``huggingface_hub.HfApi``."""

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        """Create a model repository unless it exists."""
        ...

    def repo_info(self, repo_id: str) -> Any:
        """Return a repository's facts, among them ``private``."""
        ...

    def upload_folder(self, *, repo_id: str, folder_path: Path, commit_message: str) -> Any:
        """Upload a directory as one commit."""
        ...

    def snapshot_download(
        self, repo_id: str, *, revision: str | None, local_dir: Path, allow_patterns: list[str]
    ) -> Any:
        """Download the files that match into ``local_dir``."""
        ...


def push(
    directory: Path,
    repository: str,
    *,
    private: bool = False,
    license_name: str | None = None,
    client: HubClient | None = None,
) -> str:
    """Upload an autoencoder's directory with a model card and return its address; the directory is not changed.

    A ``README.md`` in it is taken as it is; otherwise one is generated. Only an autoencoder's files travel.

    Raises:
        UserError: the directory holds no autoencoder, no token is known, or the hub refuses or cannot be reached.
    """
    check_license(license_name)
    _check_name(repository)
    if not directory.expanduser().is_dir():
        raise UserError(f"{directory}: no such directory; give the directory of an autoencoder")
    directory = directory.expanduser()
    autoencoder = load_autoencoder(directory)
    own_card = (directory / _CARD).exists()
    if own_card and license_name is not None:
        raise UserError(f"{directory / _CARD}: is taken as it is; name the license in it, or remove it or --license")
    card = model_card(gather_facts(directory, autoencoder, _stored_dtype(directory)), repository, license_name)
    client = _client() if client is None else client
    with tempfile.TemporaryDirectory(prefix="reals-push-") as name:
        staged = Path(name)
        _stage(directory, staged)
        if not own_card:
            (staged / _CARD).write_text(card, encoding="utf-8")
        with _one_line(f"push {repository}"), quiet("diffusers"):
            client.create_repo(repository, private=private or None, exist_ok=True)
            # An existing repository keeps its visibility, whatever was asked for.
            if private and not client.repo_info(repository).private:
                raise UserError(
                    f"{repository}: exists and is public; make it private on its page, or leave --private out"
                )
            client.upload_folder(repo_id=repository, folder_path=staged, commit_message="Upload autoencoder")
    return f"https://huggingface.co/{repository}"


def pull(repository: str, out: Path, *, revision: str | None = None, client: HubClient | None = None) -> Path:
    """Download an autoencoder's files into the new directory ``out``, check that they load, and return ``out``.

    Raises:
        UserError: ``out`` exists, the hub cannot give it, or what arrived is no whole autoencoder; nothing is left.
    """
    refuse_existing(out)
    _check_name(repository)
    client = _hub() if client is None else client
    with atomic_directory(out) as temporary:
        with _one_line(f"pull {repository}"):
            client.snapshot_download(
                repository, revision=revision, local_dir=temporary, allow_patterns=[_WEIGHTS, *_FILES]
            )
        # The hub's client keeps notes about its downloads.
        shutil.rmtree(temporary / ".cache", ignore_errors=True)
        if not (temporary / "config.json").exists():
            raise UserError(
                f"{repository}: has no config.json at its top; only repositories of one autoencoder are read"
            )
        try:
            LatentNormalisation.of(load_autoencoder(temporary))
        except UserError as error:
            raise UserError(f"{repository}: {str(error).replace(str(temporary), 'what arrived')}") from None
    return out


def _check_name(repository: str) -> None:
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise UserError(f"{repository}: is no repository's name; write owner/name")


def _stage(directory: Path, staged: Path) -> None:
    """Copy what travels and say what stays."""
    weights = [path.name for path in sorted(directory.glob(_WEIGHTS))]
    travelling = [*weights, *(name for name in _FILES if (directory / name).exists())]
    for name in travelling:
        shutil.copyfile(directory / name, staged / name)
    left = sorted({path.name for path in directory.iterdir()} - {*travelling, METRICS_NAME})
    if left:
        say(f"{directory}: left here, as no part of an autoencoder: {', '.join(left)}")


def _stored_dtype(directory: Path) -> str:
    """Return the type of the stored weights, from the header of their file."""
    (first, *_) = sorted(directory.glob("*model*.safetensors"))
    with open(first, "rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
    types: set[str] = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    return " and ".join(names.get(kind, kind) for kind in sorted(types))


def _hub() -> HubClient:
    from huggingface_hub import HfApi

    return HfApi()


def _client() -> HubClient:
    """Return a client that may write.

    Raises:
        UserError: no token is known.
    """
    from huggingface_hub import get_token

    if get_token() is None:
        raise UserError("push: no Hugging Face token is known; run 'hf auth login', or set HF_TOKEN")
    return _hub()


@contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turn the client's failures into one line: no connection, no such repository, no permission."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not _is_hubs(error):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{what}: the Hugging Face hub refused or could not be reached ({reason})") from None


def _is_hubs(error: Exception) -> bool:
    """Return whether an error comes from the hub's client or the library by which it connects."""
    modules: Sequence[str] = [kind.__module__.split(".")[0] for kind in type(error).__mro__]
    return isinstance(error, OSError) or any(
        name.startswith(("huggingface_hub", "httpx", "requests")) for name in modules
    )

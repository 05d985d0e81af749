"""Loading FID's network: its file is read for a hash once, and named published by that hash alone."""

import hashlib
from pathlib import Path

import pytest

from reals.evaluation import inception
from reals.evaluation.inception import inception_features
from reals.runtime.io import save_state, sha256_file
from tests.evaluation.seeded_inception import seeded_weights


def test_the_weights_are_hashed_once_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path / "weights.pth", seeded_weights())
    own, hashed = sha256_file(tmp_path / "weights.pth"), []
    digest = hashlib.file_digest

    def watch(handle: object, name: str) -> object:
        hashed.append(name)
        return digest(handle, name)  # pyright: ignore[reportArgumentType, reportCallIssue]

    monkeypatch.setattr(hashlib, "file_digest", watch)
    for asked in (None, own.upper()):
        for published in (own, "0" * 64):
            monkeypatch.setattr(inception, "INCEPTION_SHA256", published)
            hashed.clear()
            assert inception_features(str(tmp_path / "weights.pth"), asked).published == (published == own)
            assert hashed == ["sha256"]

"""Files appear whole or not at all, and nothing that is read is executed."""

import os
from pathlib import Path

import pytest
import torch

from reals.runtime.errors import UserError
from reals.runtime.io import (
    atomic_directory,
    atomic_path,
    check_writable,
    load_state,
    load_tensors,
    read_json,
    refuse_existing,
    refuse_file,
    remove_leftovers,
    save_state,
    save_tensors,
    sha256_file,
    write_json,
    write_text,
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the new")
            assert temporary.parent == path.parent
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_file_replaces_the_old_one_and_makes_its_directory(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    write_text(path, "old")
    write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    assert names(path.parent) == ["file.txt"]


def test_a_directory_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("old", "new"):
        with atomic_directory(path) as temporary:
            (temporary / name).write_text(name)
            assert not (path / "new").exists()
    assert names(path) == ["new"]
    assert names(tmp_path) == ["model"]


def test_a_failing_writer_leaves_the_old_directory(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_directory(path) as temporary:
        (temporary / "old").touch()

    def fail() -> None:
        with atomic_directory(path) as temporary:
            (temporary / "new").touch()
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail()
    assert names(path) == ["old"]
    assert names(tmp_path) == ["model"]


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.0a1b2c3d.partial").mkdir()
    (tmp_path / ".model.0a1b2c3d.partial" / "weights").touch()
    (tmp_path / ".model.0a1b2c3d.retired").mkdir()
    (tmp_path / ".file.txt.0a1b2c3d.partial").touch()
    for kept in ("samples.partial", ".hidden", "file.txt"):
        (tmp_path / kept).touch()
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [".hidden", "file.txt", "samples.partial"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_without_numbers_that_are_none(tmp_path: Path, value: float) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"x": 1.5})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, {"x": [value]})
    assert read_json(path) == {"x": 1.5}


def test_unreadable_json_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")
    for content in (b"{", b"\xff\xfe"):
        (tmp_path / "broken.json").write_bytes(content)
        with pytest.raises(UserError, match=r"broken\.json: not a JSON file"):
            read_json(tmp_path / "broken.json")


def test_tensors_keep_type_and_values(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    tensors = {
        "transposed": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(1)),
    }
    save_tensors(path, tensors, {"made by": "a test"})
    found = load_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.detach())


def test_damaged_tensors_are_the_users_to_mend(tmp_path: Path) -> None:
    path = tmp_path / "tensors.safetensors"
    with pytest.raises(UserError, match="no such file"):
        load_tensors(path)
    save_tensors(path, {"x": torch.zeros(100)})
    whole = path.read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="not a whole safetensors file"):
            load_tensors(path)


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = torch.optim.AdamW([weight], 0.1)
    weight.sum().backward()
    optimiser.step()
    save_state(tmp_path / "state.pt", optimiser.state_dict())
    found = load_state(tmp_path / "state.pt")
    assert found["param_groups"] == optimiser.state_dict()["param_groups"]
    assert torch.equal(found["state"][0]["exp_avg"], optimiser.state_dict()["state"][0]["exp_avg"])


class Exploit:
    """Unpickling this makes a directory."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, (str(self.path),))


def test_code_in_a_state_is_not_executed(tmp_path: Path) -> None:
    victim = tmp_path / "executed"
    save_state(tmp_path / "state.pt", {"harmless": Exploit(victim)})
    with pytest.raises(UserError, match=r"state\.pt: holds a \w+\.mkdir besides tensors"):
        load_state(tmp_path / "state.pt")
    assert not victim.exists()


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    save_state(path, {"x": torch.zeros(100)})
    whole = path.read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"state\.pt: not a whole file of tensors"):
            load_state(path)
    with pytest.raises(UserError, match="no such file"):
        load_state(tmp_path / "nowhere.pt")


def test_a_text_is_no_checkpoint_and_nobody_is_told_to_run_it(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_text("# Notes\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"notes\.pt: not a whole file of tensors \(damaged, or no torch checkpoint\)$"):
        load_state(tmp_path / "notes.pt")


def test_tensors_without_names_are_no_state(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")  # noqa: TID251
    with pytest.raises(UserError, match=r"list\.pt: holds a list instead of named tensors"):
        load_state(tmp_path / "list.pt")


def test_a_foreign_checkpoint_is_read_and_its_code_is_not(tmp_path: Path) -> None:
    path, victim = tmp_path / "a.ckpt", tmp_path / "executed"
    save_state(path, {"state_dict": {"x": torch.ones(2)}, "epoch": 3})
    assert torch.equal(load_state(path)["state_dict"]["x"], torch.ones(2))
    save_state(path, {"state_dict": {"x": torch.ones(2)}, "callback": Exploit(victim)})
    with pytest.raises(UserError, match=r"a\.ckpt: holds a \w+\.mkdir besides tensors, .* where you trust the file"):
        load_state(path)
    assert not victim.exists()


def test_only_a_free_place_becomes_a_directory(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "a" / "b")
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty")
    write_text(tmp_path / "full" / "file", "x")
    with pytest.raises(UserError, match="full: exists already; give another --out"):
        refuse_existing(tmp_path / "full")
    for place in ("file", "file/below", "file/far/below"):
        with pytest.raises(UserError, match="file: is a file; give a directory as --out"):
            refuse_existing(tmp_path / "full" / place)
    assert names(tmp_path) == ["empty", "full"]


def test_a_file_in_the_way_of_a_directory_is_named_with_what_to_do(tmp_path: Path) -> None:
    write_text(tmp_path / "full" / "file", "x")
    assert refuse_file(tmp_path / "full" / "far" / "below") == refuse_file(tmp_path / "full") == tmp_path / "full"
    with pytest.raises(UserError, match="file: is a file; give another --cache"):
        refuse_file(tmp_path / "full" / "file" / "below", "give another --cache")
    with pytest.raises(UserError, match="file: is a file; give a path below a directory as --out"):
        check_writable(tmp_path / "full" / "file" / "far" / "below", "--out")
    with pytest.raises(UserError, match="full: is a directory; give a file as --out"):
        check_writable(tmp_path / "full", "--out")
    check_writable(tmp_path / "full" / "far" / "below", "--out")
    assert names(tmp_path / "full") == ["file"]


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_file(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

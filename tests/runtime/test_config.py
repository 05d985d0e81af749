"""Configurations go to JSON and back unchanged, and anything else is refused by its path."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from reals.recipes.presets import PRESETS
from reals.recipes.schema import Recipe
from reals.runtime.config import from_dict, to_dict
from reals.runtime.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Small:
    steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Large:
    rate: float
    names: tuple[str, ...] = ()
    pair: tuple[int, float] = (1, 2.0)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError(f"rate is {self.rate}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class Whole:
    part: Small | Large
    limit: float | None = None
    kind: Literal["sum", "mean"] = "sum"
    flag: bool = False


WHOLE = Whole(part=Large(rate=0.5, names=("a", "b"), pair=(3, 4.5)), limit=2.0, kind="mean", flag=True)


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return WHOLE's JSON with one place replaced."""
    values = json.loads(json.dumps(to_dict(WHOLE)))
    place = values
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return values


def test_there_and_back_by_way_of_json() -> None:
    assert from_dict(Whole, json.loads(json.dumps(to_dict(WHOLE)))) == WHOLE
    small = Whole(part=Small(steps=7))
    assert from_dict(Whole, json.loads(json.dumps(to_dict(small)))) == small


@pytest.mark.parametrize("name", PRESETS)
def test_every_recipe_goes_there_and_back(name: str) -> None:
    recipe = PRESETS[name].build()
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe


def test_a_union_is_read_by_its_type() -> None:
    values = {"type": "Whole", "part": {"type": "Small", "steps": 3}, "limit": None, "kind": "sum", "flag": False}
    assert from_dict(Whole, values) == Whole(part=Small(steps=3))
    values["part"] = {"type": "Smal", "steps": 3}
    with pytest.raises(UserError, match=r"config\.part: unknown type 'Smal'; did you mean 'Small'"):
        from_dict(Whole, values)
    values["part"] = {"steps": 3}
    with pytest.raises(UserError, match=r"config\.part: unknown type None"):
        from_dict(Whole, values)


def test_whole_numbers_are_numbers() -> None:
    assert from_dict(Whole, changed(("part", "rate"), 2)).part == Large(rate=2.0, names=("a", "b"), pair=(3, 4.5))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("part", "rate"), "fast", r"config\.part\.rate: expected float, found 'fast'"),
        (("part", "rate"), True, r"config\.part\.rate: expected float, found True"),
        (("part", "rate"), -1.0, r"config\.part: rate is -1\.0; it must not be negative"),
        (("part", "names"), "ab", r"config\.part\.names: expected a list, found 'ab'"),
        (("part", "names"), ["a", 1], r"config\.part\.names\[1\]: expected str, found 1"),
        (("part", "pair"), [1], r"config\.part\.pair: expected 2 values, found 1"),
        (("part", "pair"), [1.5, 2.0], r"config\.part\.pair\[0\]: expected int, found 1\.5"),
        (("part", "raet"), 1.0, r"config\.part: unknown field 'raet'; did you mean 'rate'"),
        (("part",), 3, r"config\.part: 3 fits none of \['Small', 'Large'\]"),
        (("limit",), "none", r"config\.limit: 'none' fits none of"),
        (("kind",), "median", r"config\.kind: 'median' is none of \['sum', 'mean'\]"),
        (("flag",), 1, r"config\.flag: expected bool, found 1"),
        (("type",), "Other", r"config: expected Whole, found 'Other'"),
    ],
)
def test_what_does_not_fit_is_named_by_its_path(path: tuple[str, ...], value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(Whole, changed(path, value))


def test_only_missing_fields_with_a_default_are_filled_in() -> None:
    values = to_dict(WHOLE)
    del values["flag"]
    assert from_dict(Whole, values) == Whole(part=WHOLE.part, limit=2.0, kind="mean", flag=False)
    del values["part"]
    with pytest.raises(UserError, match=r"^card\.json: field 'part' is missing$"):
        from_dict(Whole, values, "card.json")
    with pytest.raises(UserError, match="expected an object for Whole, found 5"):
        from_dict(Whole, 5)

"""A mistyped name is answered with the nearest one."""

from reals.runtime.errors import nearest


def test_the_closest_option_is_named() -> None:
    assert nearest("quikstart", ["run", "quickstart", "align"]) == "; did you mean 'quickstart'?"


def test_without_a_close_one_all_are_listed_in_order() -> None:
    assert nearest("xyz", ["run", "align"]) == "; choose one of: align, run"

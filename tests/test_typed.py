"""What files say is held against types: the first field that does not fit is named."""

from dataclasses import dataclass, field
from typing import Literal, NotRequired

import pytest
from typing_extensions import TypedDict

from dtgan_core.files import typed


@dataclass(frozen=True)
class Sizes:
    width: int = 8
    share: float = 0.5
    kind: Literal["plain", "fancy"] = "plain"

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; expected at least 1")


@dataclass(frozen=True)
class Plan:
    sizes: Sizes
    name: str = "none"
    seeds: tuple[int, ...] = (0,)
    steps: int | None = None
    on: bool = False
    extra: dict[str, float] = field(default_factory=dict)


class Card(TypedDict):
    name: str
    plan: Plan
    note: NotRequired[str]


def test_a_dataclass_is_made_of_plain_json_and_a_typed_dict_keeps_more():
    value = {"sizes": {"width": 4, "share": 1}, "seeds": [1, 2], "steps": None, "extra": {"a": 1}}
    assert typed(value, Plan, "plan") == Plan(Sizes(4, 1), seeds=(1, 2), extra={"a": 1})
    card = typed({"name": "x", "plan": {"sizes": {}}, "more": [1]}, Card)
    assert card == {"name": "x", "plan": Plan(Sizes()), "more": [1]}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "found plan = [], expected an object of named fields"),
        (None, "found plan = None, expected an object"),
        ({}, "found no plan.sizes"),
        ({"sizes": {"depth": 1}}, "unknown field plan.sizes.depth, expected of width, share, kind"),
        ({"sizes": {"width": "4"}}, "found plan.sizes.width = '4', expected a whole number"),
        ({"sizes": {"width": True}}, "found plan.sizes.width = True, expected a whole number"),
        ({"sizes": {"width": 4.0}}, "found plan.sizes.width = 4.0, expected a whole number"),
        ({"sizes": {"width": -1}}, "plan.sizes: width is -1; expected at least 1"),
        ({"sizes": {"share": float("nan")}}, "plan.sizes.share = nan, expected a finite number"),
        ({"sizes": {"share": float("inf")}}, "plan.sizes.share = inf, expected a finite number"),
        ({"sizes": {"share": 10**400}}, "plan.sizes.share = 1000"),
        ({"sizes": {"share": None}}, "plan.sizes.share = None, expected a finite number"),
        ({"sizes": {"kind": "x"}}, "plan.sizes.kind = 'x', expected 'plain' or 'fancy'"),
        ({"sizes": {"kind": ["plain"]}}, "expected 'plain' or 'fancy'"),
        ({"sizes": {}, "name": 3}, "plan.name = 3, expected a text"),
        ({"sizes": {}, "seeds": 3}, "plan.seeds = 3, expected a list"),
        ({"sizes": {}, "seeds": [0, "1"]}, "plan.seeds[1] = '1', expected a whole number"),
        ({"sizes": {}, "steps": "3"}, "plan.steps = '3', expected a whole number"),
        ({"sizes": {}, "on": 1}, "plan.on = 1, expected true or false"),
        ({"sizes": {}, "extra": {"a": "b"}}, "plan.extra.a = 'b', expected a finite number"),
    ],
)
def test_the_first_field_that_does_not_fit_is_named(value, told):
    with pytest.raises(ValueError) as error:
        typed(value, Plan, "plan")
    assert told in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200

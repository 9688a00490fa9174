"""What goes together: every refusal says at once what does, and the manual has the table."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from pruner.checks import ConfigError
from pruner.compose.combinations import allowed, builtin_methods, table
from pruner.compose.validate import check
from pruner.config import GRANULARITIES, SCOPES, Choice, Config
from pruner.methods import check_combination

MANUAL = Path(__file__).resolve().parents[2] / "docs" / "guides" / "runs.md"
METHODS = {method.label: method for method in builtin_methods()}
CELLS = list(product(METHODS, GRANULARITIES, SCOPES))
REFUSED = [cell for cell in CELLS if cell[2] not in allowed(METHODS[cell[0]], cell[1])]
ADVICE = re.compile(r"(granularity|scope)=(\w+): not with .+; use \1=([\w, ]+)")


def test_how_many_scopes_each_method_takes() -> None:
    every = dict(zip(GRANULARITIES, (5, 5, 5, 1, 4, 4), strict=True))
    fewer = {
        "dsa": {**dict.fromkeys(GRANULARITIES, 1), "nm": 0},
        "fpgm": {**dict.fromkeys(GRANULARITIES, 0), "filter": 4},
        "l1": {**every, "weight": 0, "nm": 0},
    }
    found = {label: {name: len(allowed(method, name)) for name in GRANULARITIES} for label, method in METHODS.items()}
    assert found == {label: fewer.get(label, every) for label in METHODS}


def test_a_score_is_as_limited_under_another_schedule() -> None:
    for score in ("fpgm", {"name": "fpgm"}):
        method = Choice("mine", "gmp", {"score": score})
        assert [name for name in GRANULARITIES if allowed(method, name)] == ["filter"]
    own = Choice("dsa", "my_package:DSA", {"score": "mine"})  # nothing is known of a user's own
    assert allowed(own, "weight") == list(SCOPES)


def where_advice_leads(method: Choice, granularity: str, scope: str) -> list[tuple[str, str]]:
    """Where a user ends who does what each refusal says, in every way that it offers."""
    try:
        check_combination(method, granularity, scope)
    except ConfigError as error:
        said = ADVICE.fullmatch(str(error))
        assert said, error
        now = {"granularity": granularity, "scope": scope}
        key, value, others = said.groups()
        assert now[key] == value
        names = re.split(", | or ", others)
        return [end for name in names for end in where_advice_leads(method, **{**now, key: name})]
    return [(granularity, scope)]


@pytest.mark.parametrize(("label", "granularity", "scope"), REFUSED)
def test_a_refusal_names_what_to_use(label: str, granularity: str, scope: str) -> None:
    """Whoever takes the advice, in any of the ways that it offers, ends with a run that is not refused."""
    ends = where_advice_leads(METHODS[label], granularity, scope)
    assert ends and (granularity, scope) not in ends


@pytest.mark.parametrize(
    ("label", "granularity", "scope", "said"),
    [
        ("dsa", "weight", "row", "learns the share of every layer itself; use scope=global"),
        ("dsa", "nm", "global", "use granularity=weight, kernel, block, filter or head"),
        ("fpgm", "weight", "global", "compares the filters of a layer; use granularity=filter"),
        ("l1", "nm", "global", "is the magnitude; use granularity=kernel, block, filter or head"),
        ("gmp", "nm", "erk", "the pattern says which units compete; use scope=global"),
        ("dtp", "head", "row", "would be the whole layer; use scope=global, layer, erk or custom"),
    ],
)
def test_the_words(label: str, granularity: str, scope: str, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"^(granularity={granularity}|scope={scope}): not with .*{said}$"):
        check_combination(METHODS[label], granularity, scope)


def test_the_check_before_a_run_refuses_the_same(tiny_config: Callable[..., Config]) -> None:
    model = {"label": "mine", "name": "mine:Network", "options": {}}
    for label, granularity, scope in CELLS:
        ratios = {"conv1": 1.0} if scope == "custom" else None
        config = tiny_config(label, granularity=granularity, scope=scope, model=model, ratios=ratios)
        if (label, granularity, scope) in REFUSED:
            with pytest.raises(ConfigError, match=r"; use (granularity|scope)="):
                check(config)
        else:
            check(config)


def test_refusing_takes_no_time() -> None:
    start = time.process_time()
    for label, granularity, scope in REFUSED:
        with pytest.raises(ConfigError):
            check_combination(METHODS[label], granularity, scope)
    assert (time.process_time() - start) / len(REFUSED) < 1e-3  # some microseconds; building a model takes longer


def test_the_table_says_what_is_allowed() -> None:
    cells = [[cell.strip(" *`") for cell in line.strip("|").split("|")] for line in table().splitlines()]
    head, _, every, *rows = cells
    assert head == ["", *GRANULARITIES]
    assert [row[0] for row in rows] == list(METHODS)
    for label, *said in rows:
        for name, cell, scopes in zip(GRANULARITIES, said, every[1:], strict=True):
            meant = {"all": scopes, "-": ""}.get(cell, cell)
            assert meant == ", ".join(allowed(METHODS[label], name))


def test_the_manual_has_the_table() -> None:
    assert table() in MANUAL.read_text(encoding="utf-8"), "what `python -m pruner.compose.combinations` prints"

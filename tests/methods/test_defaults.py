"""The defaults are what the search found: of each method, the best row of the committed table."""

from pathlib import Path

import pandas
import pytest
import yaml

ROOT = Path(__file__).parents[2]
SEARCH = pandas.read_csv(ROOT / "outputs/tables/tune-weight.csv")


@pytest.mark.parametrize("method", sorted(SEARCH["method"].unique()))
def test_the_default_is_the_best_setting_of_the_search(method: str) -> None:
    rows = SEARCH[SEARCH["method"] == method]
    best = rows.loc[rows["mean"].idxmax(), "options"]
    found = {key: yaml.safe_load(value) for key, value in (word.split("=") for word in best.split())}
    text = (ROOT / f"conf/method/{method}.yaml").read_text(encoding="utf-8")
    options = yaml.safe_load(text)
    assert {key: options[key] for key in found} == found
    assert "outputs/tables/tune-weight.csv" in text


def test_the_search_tried_each_method_as_often() -> None:
    assert len(set(SEARCH["method"].value_counts())) == 1

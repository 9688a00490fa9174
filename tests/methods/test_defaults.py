"""The defaults are what the searches found: of each method, the best row of the committed table of its granularity."""

from pathlib import Path

import pandas
import pytest
import yaml

from pruner.compose.choices import choices, conf_folder
from pruner.compose.combinations import allowed, builtin_methods
from pruner.methods import choice, read_options

TABLES = Path(__file__).parents[2] / "outputs/tables"
SEARCHES = {
    granularity: pandas.read_csv(TABLES / f"tune-{granularity}.csv")
    for granularity in ("weight", "filter", "kernel", "block")
}
SEARCHED = [(granularity, method) for granularity, rows in SEARCHES.items() for method in sorted(set(rows["method"]))]


@pytest.mark.parametrize(("granularity", "method"), SEARCHED)
def test_the_default_is_the_best_setting_of_the_search(granularity, method, composed):
    rows = SEARCHES[granularity]
    rows = rows[rows["method"] == method]
    best = rows.loc[rows["mean"].idxmax(), "options"]
    found = {key: yaml.safe_load(value) for key, value in (word.split("=") for word in best.split())}
    options = composed(f"method={method}", f"granularity={granularity}").method.options
    assert {key: options[key] for key in found} == found
    own = choices([conf_folder()], "method")[method]
    text = choices([conf_folder()], f"tuned/{granularity}").get(method, own).read_text(encoding="utf-8")
    assert f"outputs/tables/tune-{granularity}.csv" in text


@pytest.mark.parametrize("granularity", SEARCHES)
def test_a_search_tries_each_method_as_often(granularity):
    assert len(set(SEARCHES[granularity]["method"].value_counts())) == 1


@pytest.mark.parametrize("path", sorted((conf_folder() / "tuned").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_what_is_tuned_says_nothing_twice(path):
    text = path.read_text(encoding="utf-8")
    whole = yaml.safe_load(choices([conf_folder()], "method")[path.stem].read_text(encoding="utf-8"))
    for key, value in yaml.safe_load(text).items():
        assert whole[key] != value, f"{key}: the method's own file has it"


@pytest.mark.parametrize("granularity", SEARCHES)
def test_a_method_by_name_has_the_settings_of_the_command_line(granularity, composed):
    """Scores apart, which may be named in two ways."""
    for method in builtin_methods():
        if "global" in allowed(method, granularity):
            said = composed(f"method={method.label}", f"granularity={granularity}").method
            found = choice(method.label, {}, granularity)
            mine, theirs = ({**vars(read_options(each)), "score": None} for each in (found, said))
            assert (found.name, mine) == (said.name, theirs)

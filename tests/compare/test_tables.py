"""Means, spreads and intervals against pandas and scipy; what is compared with what; layouts of the user's own."""

import itertools
import math

import pandas
import pytest
import scipy.stats

from pruner.checks import ConfigError
from pruner.compare.notes import caption, line_names, notes
from pruner.compare.spread import Difference, paired, spread
from pruner.compare.tables import Layout, tables
from tests.compare.made_rows import run

# method: sparsity: the accuracies of seeds 0, 1, ...; entries that are empty, of one seed, and of few common seeds.
ACCURACIES: dict[str, dict[float, list[float | None]]] = {
    "gmp": {0.5: [90.1, 90.9, 89.7, 90.4], 0.9: [85.0, 86.5, 84.2], 0.95: [80.0], 0.98: [71.0, 72.0]},
    "dtp": {0.5: [91.3, 90.2, 90.6, 91.9, 90.8], 0.9: [86.1, 86.0, 86.3], 0.95: [79.0, 78.0]},
    "smart": {0.5: [88.0, 88.0], 0.9: [None, None, None, 87.0], 0.98: [70.5, 73.5]},
}
ROWS = [
    run(method, sparsity, seed, accuracy, params_kept=1000 + seed)
    for method, entries in ACCURACIES.items()
    for sparsity, accuracies in entries.items()
    for seed, accuracy in enumerate(accuracies)
    if accuracy is not None
]
FRAME = pandas.DataFrame(ROWS)
PLACES = list(itertools.product(ACCURACIES, (0.5, 0.9, 0.95, 0.98)))


@pytest.fixture(scope="module")
def table():
    (found,) = tables(reversed(ROWS), baseline="gmp")
    return found


@pytest.mark.parametrize(("method", "sparsity"), PLACES)
def test_every_entry_has_the_mean_and_the_std_of_pandas(table, method, sparsity):
    wanted = FRAME[(FRAME.method == method) & (FRAME.sparsity == sparsity)].accuracy
    entry = table.entries.get(((method,), (sparsity,)))
    assert (entry is None) == wanted.empty
    if entry is not None:
        assert (entry.spread.n, entry.spread.low, entry.spread.high) == (len(wanted), wanted.min(), wanted.max())
        assert entry.spread.mean == pytest.approx(wanted.mean(), rel=1e-12)
        assert (entry.spread.std is None) == (len(wanted) == 1) == math.isnan(wanted.std())
        if entry.spread.std is not None:
            assert entry.spread.std == pytest.approx(wanted.std(), rel=1e-12, abs=1e-12)
        assert entry.mean("params_kept") == FRAME.loc[wanted.index].params_kept.mean()


@pytest.mark.parametrize(("method", "sparsity"), PLACES)
def test_every_paired_difference_has_the_interval_of_scipy(table, method, sparsity):
    wide = FRAME[FRAME.sparsity == sparsity].pivot(index="seed", columns="method", values="accuracy")
    pairs = wide.reindex(columns=[method, "gmp"]).dropna() if method != "gmp" else wide[:0]
    entry = table.entries.get(((method,), (sparsity,)))
    found = entry.difference if entry else None
    assert (found is None) == pairs.empty
    if found is None:
        return
    gaps = pairs[method] - pairs["gmp"]
    assert found.n == len(pairs)
    assert found.mean == pytest.approx(gaps.mean(), rel=1e-12)
    if found.n == 1:
        assert (found.low, found.high) == (None, None)
    else:
        wanted = scipy.stats.ttest_rel(pairs[method], pairs["gmp"]).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-9)


def test_the_places_have_every_case(table):
    pairs = {place: entry.difference.n if entry.difference else 0 for place, entry in table.entries.items()}
    assert pairs[("dtp",), (0.95,)] == 1  # two seeds of ours, one of the baseline's
    assert pairs[("smart",), (0.9,)] == 0  # seed 3 against seeds 0, 1 and 2
    assert pairs[("dtp",), (0.5,)] == 4
    assert (("smart",), (0.95,)) not in pairs


def test_equal_differences_have_an_interval_of_no_width():
    assert paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0}) == Difference(2, 1.0, 1.0, 1.0)
    assert spread([]) is None and paired({0: 1.0}, {}) is None


def test_the_mean_counts_of_a_seed_that_ran_twice():
    (found,) = tables([run("gmp"), run(accuracy=81.0), run(accuracy=83.0, run_id="again")], baseline="gmp")
    assert found.entries[("dtp",), (0.9,)].difference == Difference(1, 2.0, None, None)


@pytest.mark.parametrize("other", [{"budget": "macs"}, {"finetune_epochs": 3}, {"quant_bits": 4}, {"scope": "erk"}])
def test_only_runs_of_the_same_setting_are_paired(other):
    found = tables([run("gmp", **other), run("dtp")], baseline="gmp")
    assert [entry.difference for table in found for entry in table.entries.values()] == [None, None]


def test_a_baseline_without_a_run():
    with pytest.raises(ConfigError, match="--baseline=gnp: no finished run of it; there are dtp, gmp, smart"):
        tables(ROWS, baseline="gnp")


def test_a_baseline_of_another_key():
    """Learned against equal shares: the same method, seed by seed, but for the scope."""
    rows = [run(seed=s, accuracy=80.0 + s) for s in (0, 1)] + [run(seed=s, scope="layer") for s in (0, 1)]
    (found,) = tables([*rows, run("gmp")], Layout(("method", "scope")), baseline="scope=layer")
    gaps = {row: entry.difference for (row, _), entry in found.entries.items()}
    assert gaps[("dtp", "layer")] is None and gaps[("gmp", "global")] is None
    learned = gaps[("dtp", "global")]
    assert learned is not None and (learned.n, learned.mean) == (2, 0.5)


@pytest.mark.parametrize(
    ("baseline", "message"),
    [
        ("scope=row", "--baseline=scope=row: no finished run of it; there are global"),
        ("sope=row", "--baseline=sope: choose one of .*did you mean scope"),
        ("seed=0", "--baseline=seed: choose one of"),  # neither row nor column: it is what runs are paired by
    ],
)
def test_a_baseline_that_is_not_understood(baseline, message):
    with pytest.raises(ConfigError, match=message):
        tables(ROWS, baseline=baseline)


def test_a_layout_of_ones_own():
    rows = [run(), run(scope="erk"), run(seed=1), run("gmp"), run(budget="macs", accuracy=70.0)]
    found = tables(rows, Layout(("scope", "budget"), ("seed",)))
    assert [caption(table) for table in found] == [
        "digits resnet20: weight, dtp, sparsity 0.9; epochs 10 dense + 5 prune + 2 finetune",
        "digits resnet20: weight, gmp, sparsity 0.9; epochs 10 dense + 5 prune + 2 finetune",
    ]
    assert found[0].rows == [("erk", "params"), ("global", "macs"), ("global", "params")]
    assert found[0].cols == [(0,), (1,)]
    macs = found[0].entries[("global", "macs"), (0,)].spread
    assert macs is not None and macs.mean == 70.0
    assert tables([run(scope="row"), run()], Layout(("scope",), ("seed",)), baseline="dtp")  # a method that splits


def test_methods_as_columns_are_compared_too():
    (found,) = tables([run("gmp"), run(accuracy=81.0)], Layout(("sparsity",), ("method",)), baseline="gmp")
    assert found.entries[(0.9,), ("dtp",)].difference == Difference(1, 1.0, None, None)


def test_a_pictures_lines_are_the_tables_lines():
    rows = [run(scope=scope, options=options) for scope in ("global", "layer") for options in ("rate=0", "rate=2")]
    rows += [run("gmp", sparsity=sparsity, options=None) for sparsity in (0.5, 0.9)]

    def names(*keys):
        return line_names(tables(rows, Layout(keys)), Layout(keys))

    assert set(names("method").values()) == {"dtp", "gmp"}
    by_scope = names("scope", "method")
    assert by_scope == {("gmp", "global"): "gmp global", ("dtp", "global"): "dtp global", ("dtp", "layer"): "dtp layer"}
    assert set(names("method", "scope", "options", "granularity").values()) == {  # one granularity: not said
        *("dtp global rate=0", "dtp global rate=2", "dtp layer rate=0", "dtp layer rate=2"),
        "gmp global",  # which has no options
    }
    pictures = Layout(("method", "scope", "options")).pictures
    assert {"method", "scope", "options", "sparsity"}.isdisjoint(pictures) and "budget" in pictures


ACCURATE = ["dense_accuracy", "soft_accuracy", "hard_accuracy", "accuracy", "accuracy_top5"]
COSTLY = [
    *("params_kept", "macs_kept", "prunable_params_kept", "prunable_macs_kept", "size_bytes"),
    *("dense_seconds", "prune_seconds", "finetune_seconds", "latency_ms", "dense_latency_ms"),
]


@pytest.mark.parametrize("value", [*ACCURATE, *COSTLY, "achieved_sparsity"])
def test_less_is_better_of_costs(value):
    """And more of accuracies; what is neither stands by name."""
    rows = [run("a", **{value: 10}), run("b", **{value: 20}), run("c", **{value: 5})]
    best_first = {**dict.fromkeys(ACCURATE, "bac"), **dict.fromkeys(COSTLY, "cab")}.get(value, "abc")
    assert tables(rows, Layout(value=value))[0].rows == [(method,) for method in best_first]


def test_a_value_that_no_run_has():
    (found,) = tables([run()], Layout(value="latency_ms"), baseline="dtp")
    assert found.entries[("dtp",), (0.9,)].spread is None
    assert notes(found) == []


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({"rows": ("methd",)}, "--rows=methd: choose one of .*did you mean method"),
        ({"rows": ()}, "--rows=: give one key at least"),
        ({"cols": ("method",)}, "--rows and --cols=method.*: one key twice"),
        ({"value": "method"}, "--value=method: choose one of"),
        ({"value": "sparsity"}, "--value=sparsity: choose one of"),
    ],
)
def test_a_wrong_layout(layout, message):
    with pytest.raises(ConfigError, match=message):
        Layout(**layout)

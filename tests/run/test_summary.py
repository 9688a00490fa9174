"""The table that ends a run, to the letter."""

from pruner.run.summary import already_done, summary
from pruner.store.row import COLUMNS

ROW = {
    "status": "done",
    "method": "dtp",
    "dataset": "digits",
    "model": "resnet20",
    "granularity": "weight",
    "scope": "global",
    "budget": "params",
    "sparsity": 0.9,
    "seed": 0,
    "achieved_sparsity": 0.9000027,
    "params_total": 272474,
    "params_kept": 28947,
    "macs_total": 2_552_000,
    "macs_kept": 510_400,
    "prunable_params_total": 270608,
    "prunable_params_kept": 27060,
    "prunable_macs_total": 2_550_000,
    "prunable_macs_kept": 509_000,
    "dense_accuracy": 98.611111,
    "soft_accuracy": 97.5,
    "hard_accuracy": 96.944444,
    "accuracy": 98.055556,
    "dense_epochs": 20,
    "prune_epochs": 10,
    "finetune_epochs": 5,
    "dense_seconds": 12.345,
    "prune_seconds": 8.1,
    "finetune_seconds": 4.0,
}
EXPECTED = """\
digits resnet20 dtp weight global, seed 0
sparsity of params: asked 0.9, achieved 0.900003

                            accuracy %          epochs         seconds
dense                            98.61              20            12.3
soft masks                       97.50              10             8.1
hard masks                       96.94
final (finetuned)                98.06               5             4.0

                                before           after            kept
parameters                     272,474          28,947          10.62%
  prunable                     270,608          27,060          10.00%
multiply-adds (MACs)         2,552,000         510,400          20.00%
  prunable                   2,550,000         509,000          19.96%

folder: outputs/digits-resnet20/dtp"""


def test_the_summary():
    assert summary(ROW, "outputs/digits-resnet20/dtp") == EXPECTED


def test_a_finished_run_says_so_above_the_same_table():
    first, rest = already_done(ROW, "outputs/digits-resnet20/dtp").split("\n", 1)
    assert first.startswith("already done")
    assert rest == EXPECTED


def test_what_does_not_apply_is_a_dash_and_lines_stay_short():
    lines = summary(dict.fromkeys(COLUMNS) | {"params_total": 0, "params_kept": 0}, "x").splitlines()
    assert lines[5].split() == ["soft", "masks", "-", "-", "-"]
    assert lines[10].split() == ["parameters", "0", "0", "-"]
    huge = ROW | {"macs_total": 10**13, "macs_kept": 10**12, "dense_seconds": 1e6}
    assert max(map(len, summary(huge, "x").splitlines())) <= 80

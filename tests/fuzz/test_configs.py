"""Words that nobody would type: each line composes and validates, or is refused in one line with exit status 2.

What the fuzzing found is kept as examples.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pruner.compose import validate
from pruner.config import Config
from pruner.run import job, phases
from tests.fuzz.amount import tries
from tests.fuzz.answers import Answer, ask
from tests.fuzz.words import command_lines, small_runs

HUGE = "1" + 400 * "0"
LONG = 300 * "x"
FOUND = [
    [f"sparsity={HUGE}"],
    [f"seed={5001 * '1'}"],
    ["-m", f"+method.last_dense={5001 * '1'}"],
    ["output_dir=/dev/null/x"],
    [f"output_dir={LONG}"],
    [f"output_dir=nowhere/{LONG}"],
    [f"output_dir='{3000 * 'x/'}'"],
    ["output_dir='\ud800'"],
    ["dataset=imagefolder", f"dataset.root={LONG}"],
    ["dataset=imagefolder", "dataset.root='\x00'"],
    ["method=gmp", "method.score.name=[]"],
    ["method=gmp", "method.score={name:{}}"],
    ["method=snip", "method.name=", "method.score.name=[]"],
    ["method=../recipe/quick"],
    ["model=a/../resnet20"],
    ["model=./resnet20"],
    ["method=/recipe/quick"],
    ["model=torchvision", "model.arch={a:1}"],
    ["-m", "~hydra/sweeper"],
    ["-m", "~hydra/launcher"],
    ["-m", "hydra.sweeper=null"],
    ["-m", "hydra.sweeper.params=5"],
    ["-m", "hydra.sweeper.grids=5"],
    ["-m", "hydra.sweeper.grids=[5]"],
    ["-m", "hydra.launcher=null"],
    ["-m", "hydra.sweeper.params=???"],
    ["-m", "hydra.sweeper.cells_per_gpu=???"],
    ["-m", "hydra.sweep.dir=???"],
    ["hydra.mode=???"],
    ["threads=2000000000"],
    ["block.shape=[1,1]", "granularity=block", f"block.shape=[{10**30},1]"],
]
FOUND_BEFORE_WORK = [
    ["method=gmp", "method.score=0.25"],
    ["method=l1", "granularity=filter", "method.score=60772722794945160"],
    ["method=dsa", "method.start=1e308"],
    ["recipe.dense_lr=1e308"],
    [f"dataset.train_size={10**30}"],
    ["dataset.train_size=1000000000000000000"],
    ["dataset.channels=1000000000000000000"],
    ["method.name=':x'"],
    ["method.name='.x:y'"],
    ["method.name='a..b:c'"],
    ["+method.x={1:2,a:3}"],
    ["dataset=digits", "dataset.crop_padding=1000000000000"],
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(validate, "cuda_devices", lambda: 0)


def check(words: list[str]) -> Answer:
    """The line is understood, or refused in one line; either way it leaves nothing."""
    answer = ask(words)
    assert answer.refuses_in_one_line or (answer.status == 0 and not answer.err), words
    assert list(Path().iterdir()) == []
    return answer


def test_what_was_found_composing() -> None:
    for words in FOUND:
        assert check(["--plan", *words]).status == 2, words


@given(words=command_lines())
@tries(8, 1000)
def test_a_plan_is_made_or_refused_in_one_line(words: list[str]) -> None:
    check(["--plan", *words])


@pytest.fixture
def prepared_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run ends where its work would begin. What it raises until then would be a failed run's traceback and folder."""

    def prepare(config: Config, cell: str = "", wait: bool = True) -> int:
        phases.prepare(config)
        return 0

    monkeypatch.setattr(job, "execute", prepare)


def test_what_was_found_before_work(prepared_only: None) -> None:
    for words in FOUND_BEFORE_WORK:
        assert check(["dataset=synthetic", "recipe=smoke", "model.width=1", *words]).status == 2, words


@given(words=small_runs())
@tries(6, 1000)
def test_a_run_is_ready_for_work_or_refused_in_one_line(prepared_only: None, words: list[str]) -> None:
    check(words)


def test_minus_zero_is_zero() -> None:
    """Two spellings of one run are one run."""
    plans = {ask(["--plan", f"sparsity={zero}", f"recipe.momentum={zero}"]).out for zero in ("0", "0.0", "-0.0")}
    assert len(plans) == 1


@pytest.mark.parametrize(
    "words",
    [
        ["seed=0\n", "--plan"],
        ["output_dir='a\nb'", "--plan"],
        [f"sparsity={HUGE}"],
        ["dataset=synthetic", "method=gmp", "method.ramp=1.5"],
        ["\udcff=\udc80"],
    ],
    ids=["newline", "folder", "huge", "option", "bytes"],
)
def test_a_process_answers_as_this_one_does(words: list[str]) -> None:
    here = ask(words)
    root = str(Path(phases.__file__).parents[2])
    hidden = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "PYTHONUTF8": "1", "PYTHONPATH": root}
    command = [sys.executable, "-m", "pruner", *words]
    done = subprocess.run(command, env={**os.environ, **hidden}, capture_output=True, text=True, encoding="utf-8")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (
        here.status,
        here.out,
        here.err.count("\n"),
    )
    assert list(Path().iterdir()) == []


FLAGS = st.sampled_from(("--plan", "--cfg=job", "-m", "--nosuch", "-x", "--cfg=x", "--package=method", "--", "-"))


@given(flags=st.lists(FLAGS, max_size=2), word=st.sampled_from(("seed=1", "sparsity=2", "x", "")))
@tries(5, 100)
@example(flags=["--plan", "--"], word="-m")
def test_flags_in_any_order(flags: list[str], word: str) -> None:
    check([*flags, "--plan", word])

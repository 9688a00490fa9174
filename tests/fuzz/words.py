"""Command lines that nobody would type: strategies over every key, every choice and every kind of rubbish."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from pruner.compose.choices import choices, conf_folder

GROUPS = ("dataset", "model", "method", "granularity", "scope", "budget", "quantization", "recipe", "experiment")
# Keys of Hydra's own node, of groups that are not there, and none at all.
ODD_KEYS = (
    "hydra", "hydra.mode", "hydra.verbose", "hydra.sweeper", "hydra.sweeper.params", "hydra.sweeper.grids",
    "hydra.sweeper.max_batch_size", "hydra.sweeper.cells_per_gpu", "hydra.sweep.dir", "hydra.run.dir", "hydra.job.name",
    "hydra.job.chdir", "hydra.searchpath", "hydra.launcher", "hydra.launcher._target_", "hydra/launcher",
    "hydra/sweeper", "hydra.output_subdir", "defaults", "_target_", "method._target_", "", ".", "a.b", "sparsity.x",
    "method.score.x", "model@x", "dataset.options", "method.label", "1", "ratios.1", "é", "seed seed", "/", "..",
)  # fmt: skip
NUMBERS = (
    "0", "1", "-1", "2", "0.5", "-0.0", "1e-300", "5e-324", "1e308", "1e309", "-1e308", "nan", "-nan", "inf", "-inf",
    "1" + 30 * "0", "-1" + 30 * "0", "1" + 400 * "0", "1" + 5000 * "0", "4294967296", "9223372036854775808",
    "2147483648",
    "0x10", "1_000", "007", "1.", ".5", "+1", "1e", "0.9999999999999999999999", "true", "null", "None", "~",
)  # fmt: skip
TEXTS = (
    "", "''", '""', "' '", "'a b'", '"a\nb"', "'a\tb'", "a\nb", "a\\\nb", "'\\n'", "é", "'é日本'", "'\u202e'", "'\x00'",
    "\x00",
    "'\ud800'", "\ud800", "'\x1b[31m'", "../x", "'..'", "/", "'/nowhere/x'", "'/dev/null/x'", "~", "'~nobody/x'",
    "'$HOME/x'", "${oc.env:HOME}", "${oc.env:NO_SUCH_NAME}", "${nosuch}", "${sparsity}", "'${'", "${", "${now:%Y}",
    "${method}", "${hydra:job.name}", "${seed}", "${output_dir}", "'" + 300 * "x" + "'", "'a/" + 5000 * "b" + "'",
    "'!!python/object/apply:os.system [\"true\"]'", "':x'", "'x:'", "'.x:y'", "'a..b:c'", "'os:path.join'",
    "'no_such_module:X'", "a:b:c", "???", "'???'", "*", "'*'", "-", "--x", "%s", "{}",
)  # fmt: skip
MANY = (
    "[]", "[1,2]", "[[]]", "[nan]", "[a,1,null]", "[first,last]", "{}", "{a:1}", "{1:2}", "{1:2,a:3}", "{null:1}",
    "{a:{b:[{}]}}",
    "{conv1:nan}", "{conv1:1e400}", "{'*':0.5}", "{'*':0}", "{'*':1.0,conv1:-0.0}", "{a:'\ud800'}", "{name:x}",
    "{name:[]}",
    "{name:gmp,score:{name:snip}}", "[0]", "[-1,1]", "[10000000000000000000000000000000]", "[1.5]", "{true:false}",
    "a,b", "1,2", "0.5,nan", "range(3)", "range(0,1,0)", "choice(a,b)", "choice()", "interval(0,1)", "glob(*)",
    "glob([", "sort(3,1)",
    "shuffle(1,2)", "extend_list(1)", "str(1)", "int(a)", "int(1.5)", "float('x')", "bool(2)", "json_str(1)",
    "tag(a,b)",
    "'a,b'", "[", "]", "{", "}", "(", ")", "a=b", "=", "==", ",", ",,", ":", "a b", " a", "'", '"', "\\", "\\'", "#",
    "&&", "|", "`x`",
    "$(x)", ";", "@", "!", "?", "<", ">", "^",
)  # fmt: skip
TINY = ["dataset=synthetic", "recipe=smoke", "model=resnet20", "model.width=1"]
# What is too large for the machine is the run's failure, not the config's: these keep what they have.
SIZES = ("dataset.image_size", "dataset.channels", "dataset.classes", "dataset.train_size", "dataset.test_size")


@cache
def known_keys() -> dict[str, tuple[str, ...]]:
    """Every key of conf/ in dots, by the choice (as in `method=gmp`) that has it; those of the top by ``."""
    top = OmegaConf.load(conf_folder() / "config.yaml")
    assert isinstance(top, DictConfig)
    found = {"": tuple(str(key) for key in top if key not in ("hydra", "defaults"))}
    for group in GROUPS[:-1]:
        for name, path in choices([conf_folder()], group).items():
            prefix = "" if "@package _global_" in path.read_text(encoding="utf-8") else f"{group}."
            found[f"{group}={name}"] = tuple(_dotted(prefix, OmegaConf.to_container(OmegaConf.load(path))))
    return found


def _dotted(prefix: str, values: object) -> list[str]:
    if not isinstance(values, dict):
        return [prefix.rstrip(".")]
    whole = [prefix.rstrip(".")] if prefix else []
    return whole + [key for name, inner in values.items() for key in _dotted(f"{prefix}{name}.", inner)]


def values() -> st.SearchStrategy[str]:
    """The right side of a word: numbers, text, lists and functions of Hydra's grammar, and noise."""
    wild = st.text(st.characters(codec=None), max_size=6)
    floats = st.floats(allow_subnormal=False).map(repr)  # a run flushes denormals, which hypothesis refuses to go with
    integers = st.integers(-(10**40), 10**40).map(str)
    return st.one_of(*map(st.sampled_from, (NUMBERS, TEXTS, MANY)), _noise(), wild, floats, integers)


def _noise() -> st.SearchStrategy[str]:
    return st.text(st.sampled_from("ab1.,=:[]{}()'\"\\$ é\n~+-%*?@!\t/"), max_size=10)


def _setting(keys: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(lambda key, value: f"{key}={value}", keys, values())


def rubbish() -> st.SearchStrategy[list[str]]:
    """Words that have nothing to do with one another: keys of any choice, added and removed, and noise."""
    everything = sorted({*(key for keys in known_keys().values() for key in keys), *GROUPS})
    keys = st.sampled_from(everything) | st.sampled_from(ODD_KEYS)
    prefixed = st.builds("".join, st.tuples(st.sampled_from(("", "+", "++", "~")), keys))
    words = st.one_of(st.sampled_from(sorted(known_keys())[1:]), _setting(prefixed), prefixed, _noise())
    return st.lists(words, min_size=1, max_size=3)


def plausible() -> st.SearchStrategy[list[str]]:
    """A choice, and for one or two keys that it has, or of the top, any value at all."""
    choice = st.sampled_from(sorted(known_keys()))
    return choice.flatmap(
        lambda name: st.builds(
            lambda settings: [*([name] if name else []), *settings],
            st.lists(_setting(st.sampled_from(known_keys()[name])), min_size=1, max_size=2),
        )
    )


def command_lines() -> st.SearchStrategy[list[str]]:
    """What follows `pruner`: a few words, for one run or a sweep."""
    return st.builds(
        lambda multirun, words: [*multirun, *words],
        st.sampled_from(([], [], [], ["-m"])),
        rubbish() | plausible() | plausible(),
    )


def small_runs() -> st.SearchStrategy[list[str]]:
    """Words for a run of a network that is built in no time: choices that go with it, and any value for one key."""
    kept = ("dataset=synthetic", "recipe=smoke")
    fits = [
        name for name in known_keys() if name in kept or name.partition("=")[0] not in ("dataset", "model", "recipe")
    ]
    keys = st.sampled_from(sorted(fits)).flatmap(
        lambda name: st.builds(
            lambda key, value: [*([name] if name else []), f"{key}={value}"],
            st.sampled_from([key for key in known_keys()[name] if key not in SIZES]),
            values(),
        )
    )
    more = st.sampled_from(([], ["granularity=filter"], ["granularity=block"], ["scope=layer"], ["sparsity=0"]))
    return st.builds(lambda more, words: [*TINY, *more, *words], more, keys)

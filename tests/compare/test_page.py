"""The page in a real browser: it sorts, filters, shows and says, and runs nothing that came from a file.

Needs Chromium and its driver (Debian: apt-get install chromium chromium-driver).
"""

import re
import shutil
from itertools import pairwise

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from pruner.cli.compare import main
from pruner.config import from_dict
from pruner.store.folders import RunFolder
from tests.compare.made_rows import run

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
EVIL = "<img src=x onerror=\"document.title='run'\">"
WORSE = "</script><script>document.title='run'</script><!--<script>"


@pytest.fixture(scope="module")
def chromium():
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    assert binary and driver, "no Chromium with its driver on the PATH: apt-get install chromium chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1300,1600"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def shown(chromium, outputs, tmp_path):
    """Opens the page of some rows, and checks at the end that the browser had nothing to complain of."""

    def show(*rows, words=()):
        outputs(*rows)
        assert main(["outputs", "--html", "page.html", *words]) == 0
        chromium.get((tmp_path / "page.html").as_uri())
        return chromium

    yield show
    assert chromium.get_log("browser") == []
    assert chromium.execute_script("return performance.getEntriesByType('resource').length") == 0


SWEEP = [
    run(method, sparsity, seed, accuracy + seed)
    for method, by_sparsity in {
        "gmp": {0.5: 90.0, 0.9: 85.0, 0.95: 80.0},
        "dtp": {0.5: 91.0, 0.9: 86.5},
        "random": {0.9: 60.0},
    }.items()
    for sparsity, accuracy in by_sparsity.items()
    for seed in range(1 if method == "random" else 3)
] + [run("gmp", 0.9, granularity="filter", budget="macs", run_id="other")]


def column(browser, name):
    """The text of a column of the table of entries, from top to bottom."""
    heads = [head.get_attribute("data-key") for head in browser.find_elements(By.CSS_SELECTOR, "#entries th")]
    place = heads.index(name) + 1
    return [entry.text for entry in browser.find_elements(By.CSS_SELECTOR, f"#entries td:nth-child({place})")]


def click_head(browser, name):
    browser.find_element(By.CSS_SELECTOR, f'#entries th[data-key="{name}"] button').click()


def click_filter(browser, key, value):
    browser.find_element(By.XPATH, f'//fieldset[@data-key="{key}"]/button[normalize-space()="{value}"]').click()


def open_details(details):
    """Click, and wait for what the page fills in only when the `toggle` event comes, a moment later."""
    details.find_element(By.TAG_NAME, "summary").click()
    WebDriverWait(details, timeout=30).until(lambda opened: opened.find_elements(By.CSS_SELECTOR, "summary ~ *"))


@pytest.mark.browser
def test_the_table_sorts_by_a_click_on_a_head(shown):
    browser = shown(*SWEEP, words=["--baseline", "gmp"])
    click_head(browser, "mean")
    rising = [float(text) for text in column(browser, "mean")]
    assert rising == sorted(rising) and len(rising) == 7
    assert (
        browser.find_element(By.CSS_SELECTOR, '#entries th[data-key="mean"]').get_attribute("aria-sort") == "ascending"
    )
    click_head(browser, "mean")
    assert [float(text) for text in column(browser, "mean")] == rising[::-1]
    click_head(browser, "std")  # two entries of one seed have none: they come last, rising or falling
    assert column(browser, "std")[-2:] == ["", ""] and "" not in column(browser, "std")[:-2]
    click_head(browser, "std")
    assert column(browser, "std")[-2:] == ["", ""]
    click_head(browser, "method")
    assert column(browser, "method") == ["dtp"] * 2 + ["gmp"] * 4 + ["random"]


@pytest.mark.browser
def test_filters_narrow_everything_and_widen_again(shown):
    browser = shown(*SWEEP)
    counts = {"tr": "#entries tbody tr", "runs": "#runs details", "charts": "#curves svg"}

    def seen():
        return {name: len(browser.find_elements(By.CSS_SELECTOR, where)) for name, where in counts.items()}

    assert seen() == {"tr": 7, "runs": 17, "charts": 1}  # the one run of filters is a point, not a curve
    click_filter(browser, "method", "dtp")
    assert seen() == {"tr": 2, "runs": 6, "charts": 1}
    click_filter(browser, "method", "random")
    assert set(column(browser, "method")) == {"dtp", "random"}
    click_filter(browser, "sparsity", "0.95")
    assert seen() == {"tr": 0, "runs": 0, "charts": 0}
    assert browser.find_element(By.ID, "summary").text == "0 of 17 runs in 0 of 7 entries"
    for key, value in (("method", "dtp"), ("method", "random"), ("sparsity", "0.95"), ("granularity", "filter")):
        click_filter(browser, key, value)
    assert column(browser, "granularity") == ["filter"]
    assert browser.find_element(By.ID, "curves").text == "nowhere two methods or two sparsities of one setting"
    assert not browser.find_elements(By.CSS_SELECTOR, 'fieldset[data-key="dataset"]')  # there is only one


@pytest.mark.browser
def test_what_makes_the_tables_lines_makes_the_curves(shown):
    browser = shown(*SWEEP, run("dtp", 0.9, scope="layer", run_id="layer"), words=["--rows", "method,scope"])
    assert len(browser.find_elements(By.CSS_SELECTOR, "#curves svg")) == 1
    names = [name.text for name in browser.find_elements(By.CSS_SELECTOR, "#curves .name")]
    assert names == ["dtp global", "dtp layer", "gmp global", "random global"]
    click_filter(browser, "scope", "layer")
    assert browser.find_element(By.ID, "summary").text == "1 of 18 runs in 1 of 8 entries"


@pytest.mark.browser
def test_a_point_says_what_it_is(shown):
    browser = shown(*SWEEP, words=["--baseline", "gmp"])
    points = browser.find_elements(By.CSS_SELECTOR, "#curves .point")
    point = next(p for p in points if p.get_attribute("aria-label").startswith("dtp at sparsity 0.9\n"))
    assert not browser.find_element(By.ID, "tip").is_displayed()
    ActionChains(browser).move_to_element(point).perform()
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed()
    assert tip.text.splitlines() == [
        "dtp at sparsity 0.9",
        "accuracy 87.50 ± 1.00 (n = 3)",
        "minus gmp: +1.50 [+1.50, +1.50] (3 pairs)",
    ]
    ActionChains(browser).move_to_element(browser.find_element(By.TAG_NAME, "h1")).perform()
    assert not tip.is_displayed()


@pytest.mark.browser
def test_labels_of_curves_do_not_overlap(shown):
    browser = shown(*(run(f"method{i}", s, 0, 80.0 + i / 50 - 10 * s) for i in range(12) for s in (0.5, 0.9)))
    boxes = [name.rect for name in browser.find_elements(By.CSS_SELECTOR, "#curves .name")]
    tops = sorted(box["y"] for box in boxes)
    assert len(boxes) == 12
    assert min(b - a for a, b in pairwise(tops)) >= 0.8 * boxes[0]["height"]


@pytest.mark.browser
def test_a_run_shows_its_command_its_epochs_and_its_row(shown, composed, tmp_path):
    config = composed("method=gmp", "sparsity=0.9", "recipe=smoke", "seed=4")
    folder = RunFolder(tmp_path / "outputs" / "digits-resnet20" / "run0")
    folder.write_config(config.to_dict())
    epochs = [{"phase": "prune", "epoch": e, "loss": 1 / e, "undecided": 0.1 / e, "gap": 3.0 - e} for e in (1, 2)]
    folder.write_tables({"epochs": [*epochs, {"phase": "finetune", "epoch": 1, "loss": 0.3}]})
    browser = shown(run("gmp", 0.9, 4, 88.125, run_id=config.run_id, commit="0123abc"))
    details = browser.find_element(By.CSS_SELECTOR, "#runs details")
    assert details.text == "gmp, seed 4: accuracy 88.13"
    open_details(details)
    assert details.find_element(By.TAG_NAME, "pre").text == "pruner method=gmp recipe=smoke seed=4"
    titles = [chart.get_attribute("aria-label") for chart in details.find_elements(By.TAG_NAME, "svg")]
    assert titles == [
        "loss against epoch of the run",
        "undecided share of units against epoch of the run",
        "soft-to-hard gap, points against epoch of the run",
    ]
    assert "commit\n0123abc" in details.text and f"run_id\n{config.run_id}" in details.text


@pytest.mark.browser
def test_notes_and_failures_are_on_the_page(shown):
    failed = run("gmp", 0.9, 1) | {"status": "failed", "accuracy": None, "error": "loss is nan"}
    browser = shown(run(commit="a"), run("gmp", commit="b"), failed)
    said = [line.text for line in browser.find_elements(By.CSS_SELECTOR, "#notes li")]
    assert said == ["note: runs of different commit: a, b", "failed: gmp at 0.9, seed 1: loss is nan"]
    assert browser.find_element(By.ID, "summary").text == "3 of 3 runs in 2 of 2 entries, 1 failed"
    assert "gmp, seed 1: failed: loss is nan" in browser.find_element(By.ID, "runs").text


@pytest.mark.browser
@pytest.mark.parametrize("evil", [EVIL, WORSE, "javascript:alert(1)", "{{script}}", "'\"`${1}"])
def test_nothing_from_a_file_is_run(shown, composed, tmp_path, evil):
    config = composed("method=gmp").to_dict()
    config["method"] = {"label": evil, "name": evil, "options": {evil: evil}}
    RunFolder(tmp_path / "outputs" / "digits-resnet20" / "run0").write_config(config)
    its_id = from_dict(config).run_id
    rows = [
        run(evil, 0.9, seed, dataset=evil, model=evil, commit=f"{evil}{seed}", run_id=its_id if seed == 0 else "other")
        for seed in (0, 1)
    ]
    rows.append(run("gmp", 0.9, dataset=evil, model=evil) | {"status": "failed", "accuracy": None, "error": evil})
    browser = shown(*rows)
    for details in browser.find_elements(By.TAG_NAME, "details"):
        open_details(details)
    for point in browser.find_elements(By.CSS_SELECTOR, "#curves .point"):
        ActionChains(browser).move_to_element(point).perform()
    assert browser.title == "pruner: comparison"
    assert not browser.find_elements(By.TAG_NAME, "img") and len(browser.find_elements(By.TAG_NAME, "script")) == 2
    assert "pruner --config-dir DIR" in browser.find_element(By.TAG_NAME, "pre").text
    assert " ".join(evil.split()) in " ".join(browser.find_element(By.TAG_NAME, "body").text.split())


def test_the_page_asks_for_nothing(outputs, tmp_path):
    outputs(run())
    assert main(["--html", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert re.findall(r"https?://[^\"']*", page) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"\b(src|href)=|@import|url\(|fetch\(|XMLHttpRequest|innerHTML", page)


@pytest.mark.browser
def test_a_page_without_a_finished_run(shown):
    browser = shown(run() | {"status": "failed", "accuracy": None, "error": "out of memory"})
    assert browser.find_element(By.ID, "curves").text == "no finished run"


def test_epochs_that_cannot_be_read_are_said_and_left_out(outputs, tmp_path, capsys):
    outputs(run())
    (tmp_path / "outputs" / "digits-resnet20" / "run0" / "epochs.csv").write_text("phase,epoch")
    assert main(["--html", "page.html"]) == 1
    said = capsys.readouterr()
    assert (
        said.err
        == "pruner-compare: warning: outputs/digits-resnet20/run0/epochs.csv: cut short, the last line has no end\n"
    )
    assert "80.00 (1)" in said.out and '"epochs":[]' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_config_of_another_run_gives_no_command(outputs, composed, tmp_path):
    config = composed("method=gmp")
    RunFolder(tmp_path / "outputs" / "digits-resnet20" / "run0").write_config(config.to_dict())
    for run_id, said in ((config.run_id, '"command":"pruner method=gmp"'), ("another", '"command":null')):
        outputs(run("gmp", run_id=run_id))
        assert main(["--html", "page.html"]) == 0
        assert said in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("config", ["{", "method: [1]\n", "dataset: {}\n"])
def test_a_config_that_is_not_of_a_run_gives_no_command(outputs, tmp_path, config):
    outputs(run())
    (tmp_path / "outputs" / "digits-resnet20" / "run0" / "config.yaml").write_text(config)
    assert main(["--html", "page.html"]) == (1 if config == "{" else 0)
    assert '"command":null' in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written(outputs, tmp_path, capsys):
    outputs(run())
    (tmp_path / "file").write_text("")
    assert main(["--html", "file/page.html"]) == 2
    assert capsys.readouterr().err.startswith("pruner-compare: --html file/page.html: ")

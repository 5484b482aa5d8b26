"""The report: what it shows, that it stands alone, and how a real browser takes it."""

from __future__ import annotations

import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from knapsack_prune.errors import RequestError
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.report.page import render
from knapsack_prune.report.sources import COMMAND, LOG, Sources, Subject, again, read_sources, write_log

GOLDEN = (Path(__file__).parents[1] / "planning" / "golden_plan.json").read_text()
GOLDEN = GOLDEN.replace('"version": 0', '"version": "1"')  # a text, which the golden file leaves out
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EPOCHS = "epoch,rate,loss,held_out_top1,held_out_loss\n0,0.1,1.5,0.5,1.2\n1,0.05,0.7,0.9,0.4\n"
RESULT = {"accuracy": {"parent": 0.99, "before": 0.5, "after": 0.987}, "test_images": 360}


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A plan with its log, a fine-tuned network, a slim network and a front, as the commands write them."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "plan.json").write_text(GOLDEN)
    trace = [(0.1, 50, 100), (0.2, 80, 90), (0.4, 85, 85)]
    write_log(folder / f"plan.json{LOG}", ["knapsack-prune", "plan", "--keep", "a b"], trace)
    trained = folder / "trained"
    trained.mkdir()
    (trained / "plan.json").write_text(GOLDEN)
    (trained / "result.json").write_text(json.dumps(RESULT))
    (trained / "summary.csv").write_text(EPOCHS)
    (trained / "repair.json").write_text(
        json.dumps({"predicted_loss": 0.25, "held_out_loss": 0.125, "held_out_images": 64})
    )
    slim = folder / "slim"
    slim.mkdir()
    (slim / "plan.json").write_text(GOLDEN)
    (slim / "config.json").write_text("{}")
    front = folder / "front"
    front.mkdir()
    (front / "front.csv").write_text(
        "budget,kept_fraction,importance_fraction,status\n0.1,,,NO_PLAN\n0.3,0.3,0.8,OPTIMAL\n0.6,0.6,0.95,OPTIMAL\n"
    )
    write_log(front / COMMAND, ["knapsack-prune", "sweep"])
    return [folder / "plan.json", trained, slim, front]


@pytest.fixture(scope="module")
def page(everything: list[Path]) -> str:
    return render(read_sources(everything))


def test_everything_that_is_known_is_shown(page: str) -> None:
    for words in (
        "Widths before and after",
        "Where the FLOPs were, and are",
        "Front: importance kept",
        "Gap of the solver over time",
        "predicted 0.25, 0.125 after the repair",
        "Losses of training",
        "Accuracy on held-out images",
        "98.70\u00a0%",
        "knapsack-prune plan --keep &#39;a b&#39;",
        "knapsack-prune slim plan.json",
        "OPTIMAL",
        "the next width",
    ):
        assert words in page, words


def test_plans_that_keep_the_same_are_drawn_once(page: str, everything: list[Path]) -> None:
    """A plan, its slim network and its trained one are three subjects: three lines on one another told nothing."""
    plan, trained, slim, _ = everything
    assert f"{plan}, {trained}, {slim}</" in page
    assert page.count("<h3>Groups</h3>") == 1
    assert page.count(f"The plan of {plan}: its groups") == 2


def test_plans_that_differ_are_put_side_by_side() -> None:
    plan = Plan.from_json(GOLDEN)
    group = plan.groups[0]
    narrow = plan.model_copy(
        update={"groups": (group.model_copy(update={"kept": group.kept[:1]}), *plan.groups[1:])}
    )
    both = (Subject("wide", plan, "", exact=False), Subject("narrow", narrow, "", exact=False))
    shown = " ".join(render(Sources(both)).split())
    assert "<th>wide</th><th>narrow</th>" in shown
    assert f"<td>{group.name}</td><td>{group.size}</td><td>{len(group.kept)}</td><td>1</td>" in shown


@pytest.mark.parametrize(
    "record", ["{}", '{"accuracy": {"parent": "x"}}', '{"accuracy": 1, "test_images": 3}']
)
def test_a_result_of_something_else_is_left_out(record: str, tmp_path: Path) -> None:
    """Story: the record of a supernet has no accuracy, and the page ended in a traceback."""
    (tmp_path / "plan.json").write_text(GOLDEN)
    (tmp_path / "result.json").write_text(record)
    (tmp_path / "repair.json").write_text('{"layers": []}')
    assert "after training<b>" not in render(read_sources([tmp_path]))


def test_the_metric_of_a_task_is_no_percentage(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(GOLDEN)
    accuracy = {"parent": -1.25, "before": -4.0, "after": -1.5}
    record = {"accuracy": accuracy, "top5": dict.fromkeys(accuracy), "test_images": 360}
    (tmp_path / "result.json").write_text(json.dumps(record))
    shown = render(read_sources([tmp_path]))
    assert "Metric after training<b>-1.5</b>" in shown and "-150" not in shown


def test_the_page_stands_alone(page: str) -> None:
    class Reader(HTMLParser):
        loaded: list[str] = []  # noqa: RUF012
        tags: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.loaded += [value or "" for name, value in attrs if name in ("src", "href") and value]

    reader = Reader()
    reader.feed(page)
    assert "script" not in reader.tags
    assert not [where for where in reader.loaded if not where.startswith(("#", "data:"))]
    assert "@import" not in page
    assert not re.findall(r"url\((?!#|data:)", page)


def test_names_from_a_file_are_text(everything: list[Path]) -> None:
    data = json.loads(GOLDEN)
    hostile = "<script>alert(1)</script>"
    data["model"]["name"] = hostile
    data["frozen"][0]["reason"] = hostile
    text = render(Sources((Subject(hostile, Plan.from_json(json.dumps(data)), hostile, exact=False),)))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_a_network_of_a_thousand_groups_stays_small() -> None:
    plan = Plan.from_json(GOLDEN)
    values = tuple(float(n) for n in range(plan.groups[0].size))
    group = plan.groups[0].model_copy(update={"values": values, "order": tuple(range(len(values)))})
    groups = tuple(group.model_copy(update={"name": f"blocks.{n}.mlp.fc1"}) for n in range(1000))
    layers = tuple(plan.layers[0].model_copy(update={"name": f"blocks.{n}.mlp.fc1"}) for n in range(3000))
    large = plan.model_copy(update={"groups": groups, "layers": layers})
    begun = time.process_time()
    plans = (large.model_copy(update={"keep": (f"{n}",)}) for n in range(2))
    text = render(Sources(tuple(Subject(f"plan {n}", one, "", exact=False) for n, one in enumerate(plans))))
    assert text.count("<h3>Groups</h3>") == 2
    assert len(text.encode()) < 5 * 2**20
    assert time.process_time() - begun < 20


def test_a_command_that_was_not_recorded_is_put_together() -> None:
    plan = Plan.from_json(GOLDEN)
    command = again(plan)
    assert command.startswith("knapsack-prune plan --model ")
    assert f"--budget flops={plan.budgets[0].limit}" in command
    assert "--importance l1" in command


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("absent.json", None, "cannot read"),
        ("damaged.json", "{", "not JSON"),
        ("empty", "", "holds 0 plans"),
        ("front", "budget,status\n0.5,OPTIMAL\n", "is no front"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    path = tmp_path / name
    if name in ("empty", "front"):
        path.mkdir()
        if content:
            (path / "front.csv").write_text(content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(RequestError, match=words):
        read_sources([path])


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_a_browser_shows_it_without_complaint(page: str, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright drives the browser")
    file = tmp_path / "report.html"
    file.write_text(page)
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown, said = browser.new_page(), []
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.goto(file.as_uri())
        for width in (1280, 390):
            shown.set_viewport_size({"width": width, "height": 900})
            for scheme in ("light", "dark"):
                shown.emulate_media(color_scheme=scheme)
                assert not said
                assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
                ink, paper = (
                    sum(map(int, re.findall(r"\d+", colour)[:3]))
                    for colour in shown.evaluate(
                        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
                    )
                )
                assert (ink > paper) == (scheme == "dark")
                assert abs(ink - paper) > 400
        assert len(shown.pdf(format="A4")) > 10_000
        browser.close()

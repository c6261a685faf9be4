"""Makes the pictures of the README anew, from a real job on the demo's digits: `make screenshots`.

The whole stack runs for it on this machine, and Chromium opens what it shows. Two minutes.
"""

from __future__ import annotations

import copy
import io
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Group, RenderableType

from ladle._job import Job
from ladle._reports import read_report
from ladle.cli.console import SafeConsole, in_lines
from ladle.cli.job_picture import JobPicture
from ladle.cli.job_view import JobView
from ladle.cli.plots import plots
from ladle.cli.stack import LocalStack, StackOptions, running_stack
from ladle_contracts import JobResult, JobState, StepDone
from ladle_report import answer
from tests.browser.pages import CHROMIUM, FLAGS

IMAGES = Path(__file__).parent / "images"
DIGITS = Path(__file__).parents[1] / "examples" / "digits"
WIDTH, HEIGHT, TALL = 1280, 860, 1500
MOST_BYTES = 200_000
COLUMNS = 112
RESULTS = "ladle-results"
PLACE = Path(tempfile.gettempdir()) / "ladle-pictures"
"""Is seen in the pictures, so it is always the same."""
TRAINED = {"options": {"options": {name: {"steps": 600} for name in ("twa", "twa-layerwise")}}}
"""Long enough to be seen at work."""
LOSS_MS = 4000
"""How long the curve of the loss grows before it is photographed."""


def main() -> None:
    if not CHROMIUM.exists():
        raise SystemExit(f"`make screenshots` needs {CHROMIUM}: apt-get install chromium fonts-dejavu-core")
    place = PLACE
    place.mkdir()
    try:
        train(place / "digits")
        options = StackOptions(roots=[place / "digits"], results=place / RESULTS, state=place / "stack")
        with running_stack(options) as stack:
            views, result = run(stack, place / "digits")
            draw_terminal(views, result)
            with browser(stack) as page:
                photograph(page, stack, place / "digits")
    finally:
        shutil.rmtree(place)
    for name in ("terminal.svg", "terminal-plot.svg", "report.png", "dashboard.png", "dashboard-job.png"):
        print(f"{IMAGES / name}: {(IMAGES / name).stat().st_size / 1000:.0f} kB")


def train(folder: Path) -> None:
    """As the demo does."""
    sys.path.insert(0, str(DIGITS))
    from train import train as train_digits  # type: ignore[import-not-found]

    train_digits(folder)


def run(stack: LocalStack, folder: Path) -> tuple[list[JobPicture], JobResult]:
    """Three jobs. What was known of the main one at each step of its training, and what came out."""
    with stack.client() as client:
        inputs = folder / "checkpoints", folder / "val.npz"
        client.submit(*inputs, method="uniform", output={"name": "digits-uniform"}).wait()
        job = client.submit(*inputs, method=TRAINED, diagnose=True, output={"name": "digits"}, labels={"run": "digits"})
        picture, views = JobPicture.of(job.status()), []
        for event in job.events():
            picture.take(in_lines(event))
            if picture.current is not None and picture.current.loss is not None:
                views.append(copy.deepcopy(picture))
        client.submit(*inputs, method="twa", checkpoints={"last": 10}, output={"name": "digits-last-10"}).wait()
        return views, job.result()


def draw_terminal(views: list[JobPicture], result: JobResult) -> None:
    """The job at work, in the middle of its last training, and the figures of its report."""
    last = [view for view in views if view.current is not None and view.current.method == views[-1].current.method]  # type: ignore[union-attr]
    at_work = last[len(last) // 2]
    assert at_work.state == JobState.RUNNING
    report = read_report(Path(result.folder))[0]
    draw("terminal", "ladle run digits/checkpoints digits/val.npz", JobView(at_work))
    summary = Group(answer(report), "", plots(report))
    draw("terminal-plot", "ladle report ladle-results/digits --plot", summary)


def draw(name: str, title: str, view: RenderableType) -> None:
    console = SafeConsole(record=True, width=COLUMNS, height=60, file=io.StringIO(), force_terminal=True)
    console.print(view)
    # Without a fixed id, every picture changes each time.
    console.save_svg(str(IMAGES / f"{name}.svg"), title=title, unique_id=name)


@contextmanager
def browser(stack: LocalStack) -> Iterator[Page]:
    """A window of the width of the pictures, in light colours, that is logged in."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        context = chromium.new_context(
            viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light", reduced_motion="reduce"
        )
        page = context.new_page()
        page.goto(f"{stack.url}/login")
        page.get_by_label("Token").fill(stack.token)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_url(f"{stack.url}/")
        yield page
        chromium.close()


def photograph(page: Page, stack: LocalStack, folder: Path) -> None:
    """The report as a file; then a job at work, and the list with it and one that waits."""
    page.goto(f"file://{PLACE / RESULTS / 'digits' / 'report.html'}")
    keep(page, "report", TALL)
    with stack.client() as client:
        inputs = folder / "checkpoints", folder / "val.npz"
        at_work = client.submit(*inputs, method=TRAINED, output={"name": "digits-longer"}, labels={"run": "digits"})
        waiting = client.submit(*inputs, method="ema", output={"name": "digits-ema"})
        page.goto(f"{stack.url}/jobs/{at_work.id}")
        until_training(at_work)
        page.wait_for_timeout(LOSS_MS)
        keep(page, "dashboard-job", TALL)
        page.goto(stack.url)
        page.wait_for_load_state("load")
        keep(page, "dashboard")
        for job in (waiting, at_work):
            job.cancel()
            job.wait()


def until_training(job: Job) -> None:
    """Until the last method trains, so that the others have been judged."""
    for event in job.events():
        if isinstance(event.body, StepDone) and event.body.method == "twa-layerwise" and event.body.loss is not None:
            return


def keep(page: Page, name: str, most: int = HEIGHT) -> None:
    """Down to the end of what is there, but not more than `most`, in as many colours as the size allows."""
    page.set_viewport_size({"width": WIDTH, "height": most})
    end: float = page.evaluate(
        "Math.max(...[...document.querySelectorAll('main')].map(e => e.getBoundingClientRect().bottom))"
    )
    clip: Any = {"x": 0, "y": 0, "width": WIDTH, "height": min(most, round(end) + 16)}
    image = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    for colours in (256, 128, 64, 32):
        file = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if len(file.getvalue()) <= MOST_BYTES:
            break
    (IMAGES / f"{name}.png").write_bytes(file.getvalue())


if __name__ == "__main__":
    main()

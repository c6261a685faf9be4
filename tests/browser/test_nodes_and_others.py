"""The pages of nodes, methods, tasks and settings, by who may see and do what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from ladle_contracts import Catalog, MethodInfo, Vetting, keys
from ladle_contracts.nodes import GpuState
from tests.browser.conftest import TOKENS
from tests.browser.pages import Visit, visiting
from tests.integration.api_stack import NODE, ScriptedNode, Stack
from tests.polling import SOON_S
from tests.unit.service.fakes import START
from tests.unit.service.pages.catalogs import IMAGES, TEXTS, TWA

HOSTILE = "</script><img src=x onerror=alert(1)>"
EVIL = MethodInfo(
    name="evil", summary=HOSTILE, reference=HOSTILE, reference_url="javascript:alert(1)", formula=(HOSTILE,)
)
CATALOG = Catalog(methods=(TWA.model_copy(update={"formula": ("alpha_i = 1/K",)}), EVIL), tasks=(IMAGES, TEXTS))
VETTING = Vetting(
    at=START,
    took_s=2.5,
    gpus=(GpuState(name="NVIDIA H100", free_bytes=40 << 30, total_bytes=80 << 30, flops=5e13),),
    read_bytes_per_s=2e9,
)
expect.set_options(timeout=SOON_S * 1000)


@pytest.fixture(autouse=True)
def machine(guarded: Stack) -> Iterator[ScriptedNode]:
    """A node with a GPU, that has failed."""
    made = ScriptedNode(guarded.server)
    fields = {
        "catalog": CATALOG.model_dump_json(),
        "gpus": '["NVIDIA H100"]',
        "vetting": VETTING.model_dump_json(),
        "failures_in_row": "2",
        "failure_message": HOSTILE,
    }
    made.redis.hset(keys.node(NODE), mapping=fields)
    yield made
    made.close()


@pytest.fixture
def visitor(chromium: Browser, guarded: Stack, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """Somebody who has logged in."""
    assert request.param in TOKENS
    with visiting(chromium, guarded.url) as made:
        made.log_in(request.param)
        yield made


@pytest.mark.parametrize("visitor", ["root"], indirect=True)
def test_an_admin_drains_a_node_and_lets_it_take_jobs_again(visitor: Visit, machine: ScriptedNode) -> None:
    page = visitor.open("/nodes")
    card = page.get_by_role("region", name=NODE)
    expect(card).to_contain_text("NVIDIA H100")
    expect(card).to_contain_text("Failed 2 times in a row")
    expect(card).to_contain_text(HOSTILE)
    card.get_by_label(f"Why {NODE} takes no jobs").fill("new disk")
    card.get_by_role("button", name="Drain", exact=True).click()
    expect(card).to_contain_text("Takes no jobs: drained by root: new disk.")
    assert machine.redis.hget(keys.node(NODE), "draining")
    card.get_by_role("button", name="Take jobs again").click()
    expect(card.get_by_role("button", name="Cordon")).to_be_visible()
    expect(card).not_to_contain_text("Takes no jobs")


@pytest.mark.parametrize("visitor", ["ann"], indirect=True)
def test_others_see_the_nodes_without_their_failures_and_cannot_change_them(visitor: Visit) -> None:
    page = visitor.open("/nodes")
    card = page.get_by_role("region", name=NODE)
    expect(card).to_contain_text("Failed 2 times in a row")
    expect(card).not_to_contain_text(HOSTILE)
    assert card.get_by_role("button").count() == 0


@pytest.mark.parametrize("visitor", ["eve"], indirect=True)
def test_who_may_only_read_sees_no_form(visitor: Visit) -> None:
    page = visitor.open("/submit")
    expect(page.get_by_text("Your token may only read")).to_be_visible()
    assert page.get_by_role("button", name="Submit the job").count() == 0
    visitor.check_accessibility()


@pytest.mark.slow
@pytest.mark.parametrize("visitor", ["root"], indirect=True)
def test_each_page_can_be_read_by_everybody(visitor: Visit) -> None:
    for path, words in {
        "/nodes": "NVIDIA H100",
        "/methods": "Trains one coefficient per checkpoint",
        "/tasks": "Classifies images",
        "/settings": "Requests of one owner",
        "/submit": "Checkpoints and data",
    }.items():
        page = visitor.open(path)
        expect(page.get_by_role("main")).to_contain_text(words)
        page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
        visitor.check_accessibility()
        visitor.check_phone_width()


@pytest.mark.parametrize("visitor", ["ann"], indirect=True)
def test_methods_have_formulas_and_sources_and_nothing_in_them_is_code(visitor: Visit) -> None:
    page = visitor.open("/methods")
    twa, evil = page.get_by_role("region", name="twa", exact=True), page.get_by_role("region", name="evil", exact=True)
    expect(twa.locator("math mfrac")).to_have_count(1)
    expect(twa.get_by_role("link", name="Li et al. 2023")).to_have_attribute("href", "https://arxiv.org/abs/2205.13104")
    twa.get_by_text("6 options").click()
    expect(twa.get_by_role("row", name="learning_rate")).to_contain_text("0.1")
    expect(evil).to_contain_text(HOSTILE)
    assert evil.get_by_role("link", name=HOSTILE).count() == 0
    twa.get_by_role("link", name="Submit a job with it").click()
    expect(page.get_by_label("Method", exact=True)).to_have_value("twa")


@pytest.mark.parametrize("visitor", ["ann"], indirect=True)
def test_settings_show_the_own_tokens_and_no_others(visitor: Visit) -> None:
    page = visitor.open("/settings")
    tokens = page.get_by_role("region", name="Your tokens")
    row = tokens.locator("tbody tr")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("this session")
    expect(row).to_contain_text("submit")
    expect(row).to_contain_text("ago")
    page.get_by_role("main").get_by_role("button", name="Log out").click()
    page.wait_for_url(visitor.url + "/login")

"""The tape page, as text and in a real browser: headless Chromium, driven by Playwright, where both are installed."""

import re
import shutil

import numpy as np
import pytest

import scratchdiff as sd
from scratchdiff.gradcheck import fill_zeros
from scratchdiff.page import page, parted

FLAGS = ("--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
         "--disable-component-update --disable-sync").split()  # fmt: skip
HOSTILE = '<img src="nowhere" onerror="window.hacked = 1"></script><script>window.hacked = 1</script>'


def unet_trace(dtype=np.float32, seed=0, change=None, check=False):
    """A trace of a small U-Net. change: a function of its parameters, called before the step."""
    rng = np.random.default_rng(seed)
    model = sd.UNet(8, 1, 1, ch=8, ch_mult=(1, 2), num_res_blocks=1, attn_resolutions=(4,), groups=4, rng=rng, dtype=dtype)
    fill_zeros(model.parameters(), rng)
    if change:
        change(model.parameters())
    x0 = rng.standard_normal((3, 8, 8, 1)).astype(dtype)
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(50))
    return sd.trace_step(diffusion, model, x0, np.random.default_rng(1), check=check, title=f"{np.dtype(dtype)}")


@pytest.fixture(scope="module")
def trace():
    return unet_trace(check=True)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def opened(browser, tmp_path):
    """open(trace, other): the page in the browser. At the end it may have reported no error and asked for no other file."""
    complaints, contexts = [], []

    def open_page(*traces, **settings):
        path = tmp_path / "tape.html"
        sd.save_page(traces[0], path, *traces[1:])
        contexts.append(browser.new_context(**settings))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
        tab.goto(path.as_uri())
        tab.wait_for_selector("body[data-ready]")
        return tab

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def chosen(tab):
    return int(tab.get_attribute("li.chosen", "data-op"))


def test_the_page_has_one_element_for_each_record_with_its_name(trace):
    found = re.findall(r'data-op="(\d+)" data-name="(\w+)"', page(trace))
    assert found == [(str(number), entry.name) for number, entry in enumerate(trace.entries)]


def test_the_page_of_the_yardstick_stays_below_six_megabytes():
    rng = np.random.default_rng(0)
    model = sd.UNet(**sd.recipes.YARDSTICK, rng=rng)
    fill_zeros(model.parameters(), rng)
    diffusion, x0 = sd.GaussianDiffusion(sd.linear_schedule()), sd.data.mnist()[0][:2]
    text = page(sd.trace_step(diffusion, model, x0, rng, check=False))
    assert text.count("data-op=") == text.count("data-name=") > 150 and len(text) < 6e6


def test_the_page_names_no_other_file_and_escapes_what_the_program_says():
    x = sd.Tensor(np.ones(3))
    text = page(sd.trace(lambda: (x * 2.0).sum(), {HOSTILE: x}, title=HOSTILE))
    assert HOSTILE not in text and "&lt;img" in text and "<lambda>" not in text and "&lt;lambda&gt;" in text
    assert not re.search(r'(src|href)="(?!data:,")', text.replace("&quot;", ""))


def test_a_notebook_shows_the_page_in_a_frame(browser, tmp_path, trace):
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f"<!doctype html><meta charset=utf-8>{trace._repr_html_()}", encoding="utf-8")
    with browser.new_context() as context:
        tab = context.new_page()
        tab.goto(notebook.as_uri())
        frame = tab.frame_locator("iframe")
        frame.locator("body[data-ready]").wait_for()
        frame.locator('[data-op="5"]').click()
        assert frame.locator("[data-op]").count() == len(trace.entries)
        assert frame.locator("article h2").inner_text().startswith("#5")


def test_equal_traces_never_part_and_a_broken_one_parts_at_the_op_that_is_broken(trace):
    same = parted(trace, unet_trace())
    assert same["first"] == {"forward": None, "backward": None} and max(same["forward"]) == 0

    def break_one(parameters):
        parameters["mid_attn.v.w"].data *= 1.001

    broken = unet_trace(change=break_one)
    apart = parted(trace, broken)
    first = trace.entries[apart["first"]["forward"]]
    assert (first.name, first.layer) == ("conv2d", "mid_attn.v")
    assert apart["same"] == len(trace.entries) and apart["first"]["backward"] is not None


def test_float32_and_float64_part_nowhere_in_a_small_network(trace):
    apart = parted(trace, unet_trace(np.float64))
    assert apart["same"] == len(trace.entries)


def test_save_page_refuses_what_is_no_trace(tmp_path):
    with pytest.raises(ValueError, match="save_page: needs a Trace with at least one op, got 3"):
        sd.save_page(3, tmp_path / "tape.html")


def test_clicks_keys_links_and_the_search_choose_an_op(opened, trace):
    tab = opened(trace)
    count = len(trace.entries)
    assert tab.locator("[data-op]").count() == tab.locator("[data-name]").count() == count
    assert chosen(tab) == 0
    tab.click('[data-op="5"]')
    assert chosen(tab) == 5 and tab.inner_text("article h2").startswith("#5")
    tab.keyboard.press("j")
    assert chosen(tab) == 6
    tab.keyboard.press("b")  # now j goes as the gradient does
    tab.keyboard.press("j")
    tab.keyboard.press("j")
    assert chosen(tab) == 4 and tab.evaluate("document.body.className") == "backward"
    tab.keyboard.press("k")
    assert chosen(tab) == 5
    made = next(v.made_by for v in trace.entries[5].arguments.values() if getattr(v, "made_by", None) is not None)
    tab.locator("article .value button.go", has_text=f"#{made} ").first.click()
    assert chosen(tab) == made
    tab.fill("#search", "attention mid")
    assert tab.locator("li:visible").count() == 1 and tab.get_attribute("li:visible", "data-name") == "attention"
    tab.fill("#search", "")
    assert tab.locator("li:visible").count() == count
    tab.click("#fold")
    assert tab.locator("li:visible").count() == 0


def test_the_play_button_walks_to_the_end(opened):
    x = sd.Tensor(np.ones(3))
    tab = opened(sd.trace(lambda: (x * 2.0).sum()))
    tab.click("#play")
    tab.wait_for_selector('li.chosen[data-op="1"]', timeout=3000)


def test_every_op_is_shown_with_the_tapes_numbers_its_source_and_its_check(opened, trace):
    tab = opened(trace)
    norms = tab.evaluate(
        """() => [...document.querySelectorAll("[data-op]")].map(row => {
             row.click();
             const all = (where, what) => [...where.querySelectorAll(what)], text = e => e.textContent;
             const cards = all(document, "article .value").map(card =>
               [text(card.querySelector("h3")), all(card, "[data-fact=norm]").map(text)]);
             const marks = all(document, "article .source b.marked").map(text);
             return {cards, marks, checks: all(document, "article .check .good").length};
           })"""
    )
    named = 0
    for entry, shown in zip(trace.entries, norms):
        assert shown["checks"] == len(entry.check.errors) and shown["marks"], entry.name
        for title, numbers in shown["cards"]:
            if " = " in title:
                parameter = trace.parameters[title.split(" = ")[1].split(" ")[0]]
                expected = [np.linalg.norm(parameter.data), np.linalg.norm(parameter.grad)]
                assert [float(n) for n in numbers[:2]] == pytest.approx(expected, rel=1e-3)
                named += 1
    assert named == len(trace.parameters)


def test_the_picture_of_a_gradient_has_its_signs_in_red_and_blue(opened):
    x = sd.Tensor(np.array([[-1.0, 0.0, 1.0]]))
    tab = opened(sd.trace(lambda: (x * x).sum()))
    colours = tab.evaluate(
        """() => [...document.querySelector("figure.gradient canvas").getContext("2d").getImageData(0, 0, 3, 1).data]"""
    )
    assert colours == [33, 102, 172, 255, 255, 255, 255, 255, 178, 24, 43, 255]
    assert tab.inner_text("figure.gradient .scale").split() == ["−2", "+2"]


def test_text_of_the_program_does_not_act_in_the_page(opened):
    x = sd.Tensor(np.ones(3))
    tab = opened(sd.trace(lambda: (x * 2.0).sum(), {HOSTILE: x}, title=HOSTILE))
    assert tab.evaluate("window.hacked") is None and HOSTILE in tab.inner_text("article")
    assert tab.title() == HOSTILE


def test_two_traces_stand_side_by_side(opened, trace):
    def break_one(parameters):
        parameters["mid_attn.v.w"].data *= 1.1

    broken = unet_trace(change=break_one)
    tab = opened(trace, broken)
    assert tab.locator("[data-op]").count() == len(trace.entries)
    place = next(number for number, entry in enumerate(trace.entries) if entry.layer == "mid_attn.v")
    assert tab.locator("li.parts").first.get_attribute("data-op") == str(place)
    tab.click(f'[data-op="{place}"]')
    values = tab.locator("article .value", has_text="mid_attn.v.w").locator("figure.data [data-fact=norm]").all_inner_texts()
    assert float(values[1]) == pytest.approx(1.1 * float(values[0]), rel=1e-3)


def test_two_programs_of_different_length_stand_side_by_side(opened, trace):
    x = sd.Tensor(np.ones((2, 3)))
    short = sd.trace(lambda: (x * 2.0).sum(), title="short")
    for pair in ((trace, short), (short, trace)):
        tab = opened(*pair)
        assert "The programs differ from op #0 on" in tab.inner_text("#panels")
        for number in (0, 1, len(pair[0].entries) - 1):  # the last has no counterpart where the other is shorter
            tab.click(f'[data-op="{number}"]')
            assert chosen(tab) == number


def test_the_page_of_points_and_of_numbers_that_are_not_finite_opens_in_the_dark_on_a_narrow_screen(opened, rng):
    model = sd.MLP(width=8, num_blocks=1, rng=rng)
    diffusion = sd.GaussianDiffusion(sd.cosine_schedule(50))
    points = rng.standard_normal((5, 2)).astype(np.float32)
    settings = dict(viewport=dict(width=420, height=800), color_scheme="dark")
    tab = opened(sd.trace_step(diffusion, model, points, rng), **settings)
    assert tab.locator(".points canvas").count() == 5
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
    x = sd.Tensor(np.array([0.0, 1.0]))
    with np.errstate(all="ignore"):
        tab = opened(sd.trace(lambda: (x**0.5).sum(), check=False), **settings)
    assert "infinite or NaN" in tab.inner_text("article")

"""opinion.html and the card: every cell, the neediest first, offline, honest."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from leukoscope.bundle.manifest import ConformalRule, Manifest, Member, SubjectFigures, open_bundle
from leukoscope.config import OPERATING_POINTS, Prepare
from leukoscope.inference.opinions import Opinion, Tally
from leukoscope.inference.rejection import decide
from leukoscope.report.card import card
from leukoscope.report.opinion import OpinionPage, headline, unsure_zone

MEMBER = Member(graph="model.onnx", network="seed-cnn", prepare=Prepare(size=64))
FIGURES = tuple(
    SubjectFigures(group=f"{label}{number}", label=label, cells=40, called=dict.fromkeys(OPERATING_POINTS, called))
    for label, called in (("hem", 4), ("all", 34))
    for number in range(6)
)
BINARY = Manifest(
    name="test <model>",
    classes=("hem", "all"),
    positive="all",
    members=(MEMBER,),
    subjects=FIGURES,
    operating_points=dict(zip(OPERATING_POINTS, (0.5, 0.2, 0.8), strict=True)),
)
THREE = Manifest(name="three", classes=("a", "b", "c"), members=(MEMBER,))


def opinion(name: str, chance: float, decision: str = "", reason: str = "") -> Opinion:
    called = "all" if chance >= 0.5 else "hem"
    evidence = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 4, 4)
    crop = np.full((64, 64, 3), 90, np.uint8)
    chances = {"hem": 1 - chance, "all": chance}
    maps = np.concatenate([-evidence, evidence])
    return Opinion(name, decision or called, reason, probabilities=chances, called=called, map=maps, crop=crop)


OPINIONS = [
    opinion("x/normal.png", 0.1),
    opinion("x/blast.png", 0.97),
    Opinion("x/broken.png", "refused", "Is empty (0 bytes).", readable=False),
    opinion("x/doubt.png", 0.55, "unsure", "Both hem and all are plausible."),
    opinion("x/<script>alert(1)</script>.png", 0.7),
]


def page_of(opinions: list[Opinion], manifest: Manifest = BINARY, *, subject: str = "") -> str:
    page, tally = OpinionPage(manifest, point="balanced"), Tally(manifest, point="balanced")
    for each in opinions:
        page.add(each, subject=subject)
        tally.add(each, subject=subject)
    return page.render(tally)


def test_every_cell_stands_on_the_page_the_neediest_first() -> None:
    html = page_of(OPINIONS)
    places = [html.index(f'title="x/{name}') for name in ("doubt", "broken", "blast", "&lt;script", "normal")]
    assert places == sorted(places)
    assert html.count("<figure") == len(OPINIONS)
    assert "Both normal and blast are plausible." in html
    assert "Is empty (0 bytes)." in html
    assert "blast 97 %" in html


def test_the_page_needs_nothing_else_and_runs_nothing() -> None:
    html = page_of(OPINIONS, subject="P1")
    assert "<script" not in html
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", html)
    assert "default-src 'none'" in html
    assert "url(" not in html


def test_the_page_is_well_formed() -> None:
    opened: list[str] = []

    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "img", "input", "br", "wbr"):
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Check().feed(page_of(OPINIONS, subject="P1"))
    assert not opened


def test_every_part_says_that_it_is_no_diagnosis() -> None:
    html = page_of(OPINIONS, subject="P1")
    assert html.count("not a diagnosis") >= 1 + len(re.findall("<section", html))


def test_a_subject_shows_its_corrected_share() -> None:
    html = page_of(OPINIONS[:2] * 20, subject="P1")
    share = re.search(r"<b>(\d+)</b> <span class=\"soft nowrap\">\((\d+) to (\d+)\)", html)
    assert share
    value, low, high = map(int, share.groups())
    assert low <= value <= high
    assert value == pytest.approx(100 * (0.5 - 0.1) / (0.85 - 0.1), abs=1)  # Rogan–Gladen: se 34/40, sp 36/40


def test_more_classes_have_no_threshold_and_no_share() -> None:
    chances = {"a": 0.2, "b": 0.5, "c": 0.3}
    html = page_of([Opinion("x.png", "b", probabilities=chances, called="b")], THREE, subject="P1")
    assert "b 50 %" in html
    assert "to correct the shares" in html


def test_a_share_that_may_be_anything_is_not_known() -> None:
    unlike = tuple(
        SubjectFigures(group=f"{label}{number}", label=label, cells=40, called=dict.fromkeys(OPERATING_POINTS, called))
        for label in ("hem", "all")
        for number, called in enumerate((1, 39, 20))
    )
    html = page_of(OPINIONS[:2], BINARY.model_copy(update={"subjects": unlike}), subject="P1")
    assert '<td class="n">not known yet <span class="soft nowrap">(0 to 100)</span></td>' in html
    assert "leaves more than half of all shares possible" in html
    assert "leaves more than half of all shares possible" not in page_of(OPINIONS[:2] * 20, subject="P1")


def test_a_share_of_two_cells_is_not_known_and_its_interval_stands_beside_it() -> None:
    html = page_of([opinion("a.png", 0.97), opinion("b.png", 0.98)], subject="P1")
    assert re.search(r"not known yet <span class=\"soft nowrap\">\(\d+ to 100\)", html)


def test_numbers_of_a_subject_add_up_to_its_cells() -> None:
    """An unsure cell above the mark is unsure, not called the disease as well."""
    html = page_of([opinion("a.png", 0.9), opinion("b.png", 0.6, "unsure"), opinion("c.png", 0.1)], subject="P1")
    row = re.search(r"<tr><td>P1</td>.*?</tr>", html, re.DOTALL)
    assert row
    assert re.findall(r'<td class="n">(\d+)</td>', row[0]) == ["3", "1", "1", "0"]


def test_files_and_cells_are_counted_apart_and_cells_of_no_subject_are_told() -> None:
    bad = Opinion("d.png", "refused", "Is empty.", readable=False)
    page, tally = OpinionPage(BINARY, point="balanced"), Tally(BINARY, point="balanced")
    for each, whose in ((opinion("a.png", 0.9), "P1"), (bad, "P1"), (opinion("b.png", 0.9), "P2"), (bad, "")):
        tally.add(each, subject=whose)
    assert tally.without_subject() == 0
    for each in (opinion("c.png", 0.2), opinion("e.png", 0.2)):
        tally.add(each)
    html = page.render(tally)
    row = re.search(r"<tr><td>P1</td>.*?</tr>", html, re.DOTALL)
    assert row
    assert re.findall(r'<td class="n">(\d+)</td>', row[0]) == ["1", "1", "0", "0", "1"]
    assert "2 cells without a subject" in html


def test_cells_in_fields_are_counted_once_and_where_they_stand() -> None:
    page, tally = OpinionPage(BINARY, point="balanced"), Tally(BINARY, point="balanced")
    cells = [*OPINIONS, opinion("f", 0.8), opinion("f", 0.55, "unsure")]
    for number, each in enumerate(cells):
        place = {"field": "f.png", "number": number} if each.name == "f" else {}
        page.add(each, **place)  # type: ignore[arg-type]
        tally.add(each)
    html = page.render(tally)
    assert "Called blast: 2 cells, 1 more in the fields below" in html
    assert '<label for="g2">blast 3</label>' in html
    assert "3 called blast" in html


def test_a_picture_is_held_once_and_stands_beside_its_heat_map_on_paper() -> None:
    html = page_of(OPINIONS)
    assert html.count("data:image/jpeg") == html.count('<use href="#c') == 4
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@media screen { #heat:not(:checked) ~ section .heat, #heat:not(:checked) ~ .legend-of-heat" in style


def test_an_all_black_image_is_shown_and_not_called_unreadable() -> None:
    black = Opinion("x/black.png", "refused", "Is all black.", crop=np.zeros((64, 64, 3), np.uint8))
    html = page_of([black])
    assert "no picture could be read" not in html
    assert "data:image/jpeg" in html


def test_heat_is_transparent_where_there_is_no_evidence_and_two_colours_elsewhere() -> None:
    plane = np.zeros((4, 4), np.float32)
    plane[:2, :2] = [[0.0, 9.0], [-9.0, 0.5]]
    shown = replace(OPINIONS[0], map=np.stack([-plane, plane]))
    (address,) = re.findall(r"data:image/png;base64,([^\"]+)", page_of([shown]))
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(address))))
    assert pixels[0, 0, 3] == 0
    assert pixels[0, 1, 3] == pixels[1, 0, 3] > pixels[1, 1, 3] > 0
    assert pixels[0, 1, 0] > pixels[0, 1, 2]  # orange for the class
    assert pixels[1, 0, 2] > pixels[1, 0, 0]  # blue against it


@pytest.mark.parametrize(("places", "offered"), [(1, False), (3, False), (4, True)])
def test_a_map_of_too_few_places_is_not_shown(places: int, offered: bool) -> None:
    flat = replace(OPINIONS[0], map=np.ones((2, places, places), np.float32))
    assert ("Heat map" in page_of([flat])) == offered


@pytest.mark.parametrize("smallest", [(0.17, 0.45), (0.7, 0.6), (0.0, 0.2)])
@pytest.mark.parametrize("point", ["balanced", "high_sensitivity", "high_specificity"])
def test_the_page_says_between_which_probabilities_a_cell_is_unsure(smallest: tuple[float, float], point: str) -> None:
    rule = ConformalRule(alpha=0.1, smallest_plausible=list(smallest))
    manifest = BINARY.model_copy(update={"conformal": rule})
    low, high = unsure_zone(manifest, point) or (1, 0)
    chances = np.linspace(0.005, 0.995, 100)
    called = (chances >= manifest.operating_points[point]).astype(int)
    unsure = decide(np.stack([1 - chances, chances], axis=1), rule) != called
    assert unsure.tolist() == ((chances >= low) & (chances <= high)).tolist()
    if point == "balanced":
        html = page_of(OPINIONS, manifest)
        assert f"above a probability of about {100 * high:.0f} % and normal below about {100 * low:.0f} %" in html
        assert "The mark on each bar, 50 %," in html
    assert unsure_zone(BINARY, point) is None


def test_two_measurements_of_one_model_are_told_apart() -> None:
    """The sentence of a run is of each fold's own threshold, the figures beside it of the one of the page."""
    metrics = {"verdict": {"text": "It finds 84 of 100."}, "estimators": {"model": {}}}
    html = page_of(OPINIONS, BINARY.model_copy(update={"metrics": metrics}))
    assert "<dt>Sensitivity at 50 %</dt><dd>0.85" in html
    assert "at the threshold of its own fold" in html
    assert "on the same cells" in html


def test_the_headline_counts() -> None:
    tally = Tally(BINARY, point="balanced")
    for each in OPINIONS:
        tally.add(each)
    said = headline(tally, BINARY)
    assert said["text"] == "Of 5 cells, 2 called blast and 1 called normal; 1 left to a person, 1 refused."
    assert said["level"] == "caution"


def test_a_card_of_little_is_still_a_card() -> None:
    text = card(THREE)
    assert text.startswith("# three")
    assert "not a diagnosis" in text
    assert "None" not in text


def test_the_shipped_card_is_what_its_bundle_says() -> None:
    """Also after the program has changed how it says so: then the card is written again."""
    bundle = open_bundle()
    assert bundle.read("card.md").decode() == card(bundle.manifest)

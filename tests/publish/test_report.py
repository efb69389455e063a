"""The report for people: text, pictures and the page, from records that may be anybody's."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import pytest
from markdown_it import MarkdownIt
from PIL import Image

from bot import reporting
from bot.errors import InputError, RefusedError
from bot.evidence import ChangedTensor, Errors, Evidence, Perplexity, Scores, Spectrum
from bot.publish import folder as folders
from bot.publish import plots
from bot.publish.grid import MOST_ROWS, grid
from bot.publish.page import as_html
from bot.publish.pictures import PATHS, drawn, pictures
from bot.publish.report_text import report_text
from bot.records import Check, Pinned
from bot.serial import as_dict, to_json
from tests.publish.samples import EVIDENCE, a_plan, a_report, a_result, hostile_evidence
from tests.publish.test_model_card import HOSTILE, golden

PAPERS = ("#ffffff", "#0d1117")
FORMULA = r"$\frac{1}{0}$ </figure><img src=x onerror=alert(1)> ]( http://evil.example"


def tensor(name, norm=0.1, **more):
    numbers = {"relative_norm": norm, "median_ulp": 0.25, "worst_ulp": 0.5, "rows": 1, "of_rows": 1}
    return ChangedTensor(name=name, **numbers | more)


def large():
    """As measured of a model of 7B with an adapter on every linear layer."""
    modules = [f"self_attn.{m}_proj" for m in "qkvo"] + [f"mlp.{m}_proj" for m in ("gate", "up", "down")]
    names = [f"model.layers.{layer}.{module}.weight" for layer in range(32) for module in modules]
    return Evidence(
        tensors=tuple(tensor(name, 0.01 + 0.0001 * i) for i, name in enumerate(names)),
        errors=Errors(width=0.05, counts=(10_000_000,) * 10 + (3,) + (0,) * 29),
        spectra=tuple(
            Spectrum(layer=f"model.layers.{i}", rank=64, energy=(0.0431 + i / 1000,) * 16) for i in range(32)
        ),
        scores=Scores(
            *[()] * 0, **{k: tuple(i / 7 for i in range(200)) for k in ("base", "adapter", "merged")}
        ),
        perplexity=Perplexity(
            base=9e4, adapter=3.1, merged=3.1, tokens=4095, window=1024, cut=True, sha256="f" * 64
        ),
    )


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


# pictures


@pytest.mark.parametrize(
    "found", [EVIDENCE, large(), hostile_evidence(FORMULA)], ids=["few", "7B", "hostile"]
)
def test_pictures_are_small_and_readable_on_both_papers(found):
    made = drawn(found)
    assert list(made) == list(PATHS)
    for data in made.values():
        assert len(data) < 60_000
        picture = Image.open(BytesIO(data)).convert("RGBA")
        assert picture.getpixel((0, 0))[3] == 0  # no paper of its own
        solid = {colour for count, colour in picture.getcolors(1 << 20) if colour[3] > 240 and count > 20}
        ink = {"#{:02x}{:02x}{:02x}".format(*colour[:3]) for colour in solid}
        assert any(min(contrast(colour, paper) for paper in PAPERS) > 3.9 for colour in ink)
    assert drawn(found) == made


def test_every_colour_stands_out_from_both_papers():
    for colour in (plots.INK, plots.BLUE, plots.ORANGE, *plots.DEPTH):
        assert min(contrast(colour, paper) for paper in PAPERS) > 3.9


def test_there_are_pictures_only_of_what_was_measured():
    assert drawn(Evidence()) == {}
    assert list(drawn(replace(EVIDENCE, scores=None, spectra=(), perplexity=None))) == list(PATHS[:2])
    assert not pictures(
        Evidence(tensors=(tensor("bias", None),), errors=Errors(width=0.05, counts=(0,) * 40))
    )


def test_what_pictures_show_is_said_in_words():
    delta, errors, scores, spectra, perplexity = (picture.alt for picture in pictures(EVIDENCE))
    assert "at most 0.2 in lm_head.weight" in delta
    assert "99.0099% are within" in errors
    assert "at most 0.001, the base's by up to 2" in scores
    assert "1 to 2 of 4 values hold 90%" in spectra
    assert "base 381.2, base + adapter 24.51, merged model 24.53" in perplexity


def test_the_grid_has_modules_by_layers_and_experts_in_one_cell():
    found = grid(
        [
            tensor("model.layers.10.q.weight", 0.3),
            tensor("model.layers.2.mlp.experts.0.up.weight", 0.3),
            tensor("model.layers.2.mlp.experts.1.up.weight", 0.4),
            tensor("lm_head.weight", 0.5),
            tensor("model.layers.2.q.bias", None),
        ]
    )
    assert found.rows == ("lm_head", "mlp.experts.*.up", "q")
    assert found.columns == ("–", "2", "10")
    assert found.values[0] == (0.5, None, None)
    assert found.values[1] == (None, pytest.approx(0.125**0.5), None)
    assert found.values[2] == (None, None, 0.3)


def test_stacks_are_named_where_there_are_several_and_rows_are_few():
    two = grid([tensor("encoder.block.0.q.weight"), tensor("decoder.block.0.q.weight")])
    assert two.rows == ("decoder.block: q", "encoder.block: q")
    assert len(grid([tensor(f"h.0.m{i}.weight", 0.1 + i) for i in range(99)]).rows) == MOST_ROWS


@pytest.mark.parametrize(
    ("norms", "begin", "end"),
    [
        ((0.1, 0.004), 0.0, 0.1),
        ((0.1, 0.06), 0.06, 0.1),
        ((0.1, 0.1), 0.095, 0.105),
        ((0.1, 0.098), 0.094, 0.104),
        ((0.0, 0.0), 0.0, 1.0),
    ],
)
def test_colours_tell_cells_apart_and_say_where_they_begin(norms, begin, end):
    tensors = tuple(tensor(f"model.layers.{i}.q.weight", norm) for i, norm in enumerate(norms))
    assert plots.scale(grid(tensors)) == pytest.approx((begin, end))
    alt = next(iter(pictures(Evidence(tensors=tensors)))).alt
    assert ("not at zero" in alt) == (begin > 0)


# text


def test_the_text_of_a_hub_merge():
    plan = a_plan()
    golden("report.md", report_text(plan, a_report(plan)))


def test_the_text_of_a_merge_of_local_folders():
    adapter, base = (Pinned(kind="folder", location=f"/home/alice/{n}", commit=f"sha256:{n}") for n in "ab")
    text = report_text(plan := a_plan(adapter=adapter, base=base), a_report(plan))
    golden("report_folder.md", text)
    assert "/home" not in text
    assert text.splitlines()[2] == (
        "What was checked of the model that came from merging the adapter from a local folder (`sha256:a`) into its"
        " base model from a local folder (`sha256:b`)."
    )


def test_strangers_text_stays_text_in_the_text():
    plan = a_plan(
        adapter=Pinned(kind="hub", location="a/b", commit="a" * 40, subfolder=HOSTILE), notes=(HOSTILE,)
    )
    check = Check(name=HOSTILE, verdict="passed", figure=HOSTILE, detail=HOSTILE)
    more = {"checks": (check,), "evidence": hostile_evidence(HOSTILE), "files": {HOSTILE: HOSTILE}}
    text = report_text(plan, a_report(plan, isolation=HOSTILE, notes=(HOSTILE,), **more))
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inline = [child for token in tokens for child in token.children or []]
    assert not [t for t in tokens if t.type == "html_block" or (t.type == "fence" and "a/b" in t.content)]
    assert not [child for child in inline if child.type == "html_inline"]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == list(PATHS)
    assert all(c.attrs["href"].startswith("https://huggingface.co/") for c in inline if c.type == "link_open")


# the page


class Seen(HTMLParser):
    """Every element with its attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def page_of(plan, report):
    return Seen(as_html(plan, report, drawn=drawn(report.evidence)))


def test_the_page_holds_everything_and_loads_nothing():
    plan = a_plan()
    found = page_of(plan, a_report(plan))
    images = [attributes for tag, attributes in found.elements if tag == "img"]
    assert [image["alt"] for image in images] == [picture.alt for picture in pictures(EVIDENCE)]
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    loaders = {"script", "link", "iframe", "object", "form", "base"}
    assert not {tag for tag, _ in found.elements} & loaders
    assert not found.open
    text = " ".join(found.words)
    for words in (
        "every name and shape as planned",
        "lm_head.weight",
        "not finite",
        "c" * 64,
        "prefers-color-scheme",
    ):
        assert words in text
    policy = next(a["content"] for t, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_strangers_text_stays_text_in_the_page():
    plan = a_plan()
    hostile = f"{HOSTILE}' onload='x\" onerror=\"y \u202e"
    place = Pinned(kind="hub", location=hostile, commit=hostile, subfolder=hostile)
    check = Check(name=hostile, verdict=hostile, figure=hostile, detail=hostile)
    report = a_report(
        plan, checks=(check,), evidence=hostile_evidence(hostile), files={hostile: hostile}, verdict=hostile,
        versions={hostile: hostile}, device=hostile, isolation=hostile, notes=(hostile,),
    )  # fmt: skip
    found = page_of(replace(plan, adapter=place, base=place, dtype=hostile), report)
    plain = page_of(a_plan(), a_report(a_plan()))
    assert {tag for tag, _ in found.elements} <= {tag for tag, _ in plain.elements}
    names = {name for _, attributes in found.elements for name in attributes}
    assert names <= {name for _, attributes in plain.elements for name in attributes}
    links = [attributes["href"] for tag, attributes in found.elements if tag == "a"]
    assert links
    assert all(link.startswith("https://huggingface.co/") for link in links)
    assert not found.open
    assert "\u202e" not in "".join(found.words)


def test_texts_of_models_stand_side_by_side_and_stay_text():
    plan = a_plan()
    text = report_text(plan, a_report(plan))
    section = text.split("## Continuations")[1].split("## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert rows == [
        "| `user: Who ate it?` | `I` | `The cat.` | `The cat.` | the same |",
        "| `def f(n):` | ` ` | `a \\| b` | `a \\| 'c'` | part at a tie |",
    ]
    words = page_of(plan, a_report(plan)).words
    assert words.index("user: Who ate it?") + 1 == words.index("I")
    assert "a | `c`" in words
    hostile = report_text(plan, a_report(plan, evidence=hostile_evidence(HOSTILE)))
    tokens = MarkdownIt("commonmark").enable("table").parse(hostile)
    cells = [t for t in tokens if t.type == "inline" and t.content.startswith("`") and "alert" in t.content]
    assert cells
    assert all(child.type in {"code_inline", "text"} for cell in cells for child in cell.children)
    assert "## Continuations" not in report_text(plan, a_report(plan, evidence=Evidence()))


# files


def a_checked(folder, **changes):
    plan = a_plan(adapter=Pinned(kind="folder", location="/home/alice/secret/lora", commit="sha256:0"))
    a_result(folder, plan)
    report = a_report(plan, **changes)
    (folder / "merge_report.json").write_text(to_json(report))
    return plan, report


def test_what_lies_beside_the_weights_is_ours_and_names_no_folder(tmp_path):
    place = tmp_path / "merged"
    plan, report = a_checked(place)
    reporting.beside(place, plan, report)
    reporting.as_page(place)
    assert folders.check(place, key=plan.key) == "finished"
    for name in ("merge_report.md", "merge_report.html"):
        assert "/home/alice" not in (place / name).read_text()
        assert "lora" in (place / "merge_report.html").read_text()
    assert sorted(p.name for p in (place / "merge_report").iterdir()) == sorted(
        p.split("/")[1] for p in PATHS
    )
    reporting.beside(place, plan, replace(report, evidence=replace(EVIDENCE, scores=None)))
    assert not (place / "merge_report" / "scores.png").exists()
    (place / "merge_report" / "diary.txt").write_text("mine")
    with pytest.raises(RefusedError, match=r"merge_report/diary\.txt"):
        folders.check(place, key=plan.key)


def test_a_page_replaces_a_page_and_nothing_else(tmp_path):
    place = tmp_path / "merged"
    a_checked(place)
    page = reporting.as_page(place)
    assert reporting.as_page(place) == page == place / "merge_report.html"
    other = tmp_path / "notes.html"
    other.write_text("mine")
    with pytest.raises(RefusedError, match="not a report page"):
        reporting.as_page(place, out=other)
    assert other.read_text() == "mine"
    page.unlink()
    page.symlink_to(tmp_path / "elsewhere")
    reporting.as_page(place)
    assert not page.is_symlink()
    assert not (tmp_path / "elsewhere").exists()
    assert not list(place.glob(".*"))


@pytest.mark.parametrize(
    "changes",
    [
        {"errors": {"width": "<script>", "counts": [1]}},
        {"errors": {"width": 0.05, "counts": [-1]}},
        {"errors": {"width": 0.0, "counts": [1]}},
        {"errors": {"width": 0.05, "counts": [1] * 20_000}},
        {"scores": {"base": [1.0], "adapter": [1.0, 2.0], "merged": [1.0]}},
        {"scores": {"base": [float("inf")], "adapter": [1.0], "merged": [1.0]}},
        {"spectra": [{"layer": ["x"], "rank": 1, "energy": [1.0]}]},
        {"tensors": [as_dict(tensor("x")) | {"count": 0}]},
        {"tensors": [as_dict(tensor("x")) | {"relative_norm": float("nan")}]},
        {"tensors": {"name": "x"}},
        {"perplexity": as_dict(EVIDENCE.perplexity) | {"base": float("inf")}},
        {"perplexity": as_dict(EVIDENCE.perplexity) | {"tokens": "many"}},
        {"continuations": [as_dict(EVIDENCE.continuations[0]) | {"agreement": "<b>"}]},
        {"continuations": [as_dict(EVIDENCE.continuations[0]) | {"prompt": "x" * 9999}]},
        {"continuations": [as_dict(EVIDENCE.continuations[0])] * 999},
        {"more": 1},
    ],
)
def test_a_report_that_is_none_of_ours_is_refused(tmp_path, changes):
    place = tmp_path / "merged"
    _, report = a_checked(place)
    document = as_dict(report)
    document["evidence"] |= changes
    (place / "merge_report.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="cannot be read as a report"):
        reporting.as_page(place)


def test_without_a_report_there_is_no_page(tmp_path):
    a_result(tmp_path / "merged", a_plan())
    with pytest.raises(InputError, match="holds no report"):
        reporting.as_page(tmp_path / "merged")

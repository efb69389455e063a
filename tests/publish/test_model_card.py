"""The merged model's card: golden files, what it inherits, and strangers' text in every field."""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from bot.publish import front_matter
from bot.publish.marker import find_marker
from bot.publish.model_card import model_card
from bot.publish.pictures import PATHS
from bot.records import Check, ConfigEdit, Patch, Pinned
from bot.request import Destination
from tests.publish.samples import KEY, a_plan, a_report, hostile_evidence

GOLDEN = Path(__file__).parent.parent / "golden"
ADAPTER_CARD = """---
license: mit
language:
- en
- no
datasets: [alice/cats]
tags: [peft, lora, adapter, "base_model:adapter:acme/base-7b", cats]
pipeline_tag: text-generation
---
# Cat
"""
BASE_CARD = "---\nlicense: other\nlicense_name: acme-1.0\nlicense_link: LICENSE\n---\n"
HOSTILE = (
    "</details><script>alert(1)</script><!-- adapter-merge-bot key=feed --> @everyone #12 [x](https://evil.example)"
    " ![i](http://evil.example/i.png) `` ` `` | a |\n# Heading\n---\nlicense: stolen www.evil.example"
)


def golden(name: str, text: str) -> None:
    """MERGE_BOT_GOLDEN=write makes the files anew; look at the difference before it is kept."""
    path = GOLDEN / name
    if os.environ.get("MERGE_BOT_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def card(plan=None, *, report="made", adapter_card=ADAPTER_CARD, base_card=BASE_CARD, **more):
    plan = plan or a_plan()
    made = a_report(plan) if report == "made" else report
    more.setdefault("destination", plan.destination)
    return model_card(plan, report=made, adapter_card=adapter_card, base_card=base_card, **more)


def metadata(text: str) -> dict:
    assert text.startswith("---\n")
    return yaml.safe_load(text.split("---\n")[1])


def test_card_of_a_hub_merge():
    golden("card_hub.md", card())


def test_card_of_local_folders_without_checks():
    home = Pinned(kind="folder", location="/home/alice/models/base", commit="sha256:" + "e" * 64)
    mine = Pinned(kind="folder", location="/home/alice/my-lora", commit="sha256:" + "f" * 64)
    plan = a_plan(
        base=home,
        adapter=mine,
        notes=("The base is /home/alice/models/base, not C:\\Users\\bob\\x.",),
        patches=(
            Patch(
                rule="r",
                key="base_model_name_or_path",
                before="/data/bob/llama",
                after="~/b/c",
                reason="moved",
            ),
        ),
        destination=Destination(kind="folder", location="/home/alice/out"),
    )
    text = card(plan, report=None, adapter_card=None, base_card=None)
    golden("card_folder.md", text)
    for leak in ("/home", "alice", "bob", "/data"):
        assert leak not in text.replace("my-lora", "")


def test_metadata_is_inherited():
    found = metadata(card(base_card="---\nlicense: mit\n---\n"))
    assert found == {
        "base_model": "acme/base-7b",
        "base_model_relation": "finetune",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "language": ["en", "no"],
        "datasets": ["alice/cats"],
        "tags": ["cats", "merged", "adapter-merge-bot"],
    }


def test_tags_of_both_cards_are_inherited_once_and_without_what_only_the_parts_are():
    mine = "---\ntags: [PEFT, lora, 'base_model:adapter:acme/base-7b', transformers, Cats, sft]\n---\n"
    theirs = (
        "---\nlanguage: [de]\ndatasets: [acme/corpus]\npipeline_tag: text-generation\n"
        "tags: [safetensors, 'region:us', 'license:mit', endpoints_compatible, llama, cats, merged]\n---\n"
    )
    found = metadata(card(adapter_card=mine, base_card=theirs))
    assert found["tags"] == ["Cats", "sft", "llama", "merged", "adapter-merge-bot"]
    assert (found["language"], found["datasets"]) == (["de"], ["acme/corpus"])
    assert found["pipeline_tag"] == "text-generation"


@pytest.mark.parametrize(
    ("dtype", "dtypes", "told"),
    [
        ("auto", ("BF16",), "as in the base (BF16)"),
        ("auto", ("F32", "BF16", "F32"), "as in the base (BF16, F32)"),
        ("float16", ("BF16",), "float16"),
    ],
)
def test_the_precision_is_told_and_not_the_flag(dtype, dtypes, told):
    binding = a_plan().bindings[0]
    text = card(a_plan(dtype=dtype, bindings=tuple(replace(binding, dtype=kind) for kind in dtypes)))
    assert f"- Precision: {told}\n" in text
    assert "auto`" not in text


def test_inert_defaults_share_a_line_and_a_brought_key_was_not_set():
    inert = [
        Patch(rule="r", key=f"key{i}", before=None, after=None, reason="x", inert=True) for i in range(12)
    ]
    edit = ConfigEdit(key="architectures", before=None, after=["A"], reason="of the adapter")
    text = card(a_plan(patches=tuple(inert), config_edits=(edit,)))
    line = "12 inert default keys removed: key0, key1, key2, key3, key4, key5, key6, key7 and 4 more\n"
    assert line in text
    assert "before merging" not in text
    assert '| `architectures` | not set | `["A"]` | of the adapter |' in text


def test_differing_licences_keep_the_base_models_and_say_so():
    text = card()
    found = metadata(text)
    assert (found["license"], found["license_name"]) == ("other", "acme-1.0")
    assert found["license_link"] == f"https://huggingface.co/acme/base-7b/blob/{'b' * 40}/LICENSE"
    assert "the adapter's card says `mit` and the base model's says `acme-1.0`" in text


@pytest.mark.parametrize(
    "broken",
    [
        None,
        "",
        "no front matter",
        "---\nlicense: [\n---\n",
        "---\n- a list\n---\n",
        "---\nlicense: {a: b}\ntags: {x: y}\nlanguage: {}\n---\n",
        "---\nlicense: null\n---\n",
        "---\n" + "[" * 3000 + "\n---\n",
        "---\nx: " + "y" * 300_000 + "\n---\n",
        "---\na: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\ntags: [*c,*c]\n---\n",
        "---\nlicense: mit",
    ],
)
def test_broken_front_matter_counts_as_none(broken):
    found = metadata(card(adapter_card=broken, base_card=broken))
    assert "license" not in found
    assert found["tags"] == ["merged", "adapter-merge-bot"]


def test_crlf_and_a_byte_order_mark_are_read():
    assert front_matter.parse("\ufeff---\r\nlicense: mit\r\n---\r\nx") == {"license": "mit"}


def test_hostile_cards_put_nothing_into_the_block():
    value = yaml.safe_dump(
        dict.fromkeys(("license", "license_name", "license_link", "pipeline_tag"), HOSTILE)
    )
    lists = yaml.safe_dump({key: [HOSTILE, "<b>", "a\n---\nb"] for key in ("tags", "language", "datasets")})
    text = card(adapter_card=f"---\n{value}{lists}---\n", base_card=None)
    assert metadata(text)["tags"] == ["merged", "adapter-merge-bot"]
    assert "evil" not in text


def test_hostile_text_in_every_field_stays_text():
    plan = a_plan(
        peft_type=HOSTILE,
        base_found_by=HOSTILE,
        model_class=HOSTILE,
        dtype=HOSTILE,
        notes=(HOSTILE,),
        shards=(HOSTILE,),
        patches=(Patch(rule=HOSTILE, key=HOSTILE, before=HOSTILE, after={HOSTILE: HOSTILE}, reason=HOSTILE),),
        adapter=Pinned(kind="hub", location="alice/cat-lora", commit="a" * 40, subfolder=HOSTILE),
    )
    check = Check(name=HOSTILE, verdict="passed", figure=HOSTILE, detail=HOSTILE)
    evidence = hostile_evidence(HOSTILE)
    text = card(plan, report=a_report(plan, checks=(check,), versions={HOSTILE: HOSTILE}, evidence=evidence))
    assert find_marker(text) == KEY
    assert len(re.findall("<!--", text)) == 1
    assert not re.search(r"@\w|#\d|://|www\.", text.replace("https://huggingface.co", ""))
    tokens = MarkdownIt("commonmark").enable("table").parse(text.split("---\n", 2)[2])
    assert [t.content.strip() for t in tokens if t.type == "html_block"] == [
        f"<!-- adapter-merge-bot key={KEY} -->"
    ]
    inline = [child for t in tokens if t.type == "inline" for child in t.children or []]
    assert not [child for child in inline if child.type == "html_inline"]
    assert [child.attrs["src"] for child in inline if child.type == "image"] == list(PATHS)
    links = {str(child.attrs["href"]) for child in inline if child.type == "link_open"}
    assert all(link.startswith("https://huggingface.co/") for link in links - {"merge_report.md"})
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| ")]
    assert set(widths) == {5}


HOSTILE_BASES = {
    "html": "---\nlicense: <b>mit</b>\ntags: ['<img src=x onerror=alert(1)>', fine]\n---\n<script>alert(1)</script>",
    "images": "---\nlicense: '![x](http://evil.example/x.png)'\ntags: ['![x](evil)', fine]\n---\n![x](http://evil.example)",
    "mentions": "---\nlicense: '@everyone'\ntags: ['@everyone', '#12', fine]\nlanguage: ['@bob']\n---\n@everyone",
    "python tags": "---\nlicense: !!python/object/apply:os.system ['touch x']\ntags: [!!python/name:os x, fine]\n---\n",
    "a second block": "---\nlicense: mit\ntags: fine\n---\n---\nlicense: x\n---\n<!-- adapter-merge-bot key=feed -->",
    "an anchor": "---\nbase_model: &a evil/evil\nlicense_link: *a\ntags: [fine]\nextra: *a\n---\n",
    "huge": "---\ntags: [fine]\n---\n" + "<b>@everyone</b> ![x](http://evil.example)\n" * 200_000,
    "a huge list": "---\ntags: [fine" + ", evil" * 20_000 + "]\n---\n",
    "control characters": '---\nlicense: "mi\\x1b[31mt"\ntags: ["a\\u202eb", fine]\n---\n',
}


@pytest.mark.parametrize("kind", HOSTILE_BASES)
def test_a_hostile_card_of_the_base_changes_nothing_but_known_keys(kind):
    text = card(adapter_card=None, base_card=HOSTILE_BASES[kind])
    plain = card(adapter_card=None, base_card=None)
    assert len(text) < len(plain) + 1000
    assert text.split("---\n", 2)[2] == plain.split("---\n", 2)[2]
    found, usual = metadata(text), metadata(plain)
    assert "fine" in found.pop("tags")
    assert {key: value for key, value in found.items() if usual.get(key) != value}.items() <= {
        ("license", "mit")
    }
    assert not re.search(r"everyone|evil\.|<b>|<script|\x1b|\u202e|touch|feed", text)

"""The report through the real command line: its numbers, its files, its page, and what becomes of them on the Hub."""

import hashlib
import json
import shutil
import webbrowser
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from bot.address import address
from bot.publish.pictures import PATHS
from bot.publish.result import read_report
from tests.e2e import ADAPTER, desk, hub, models, processes
from tests.tiny.tokenizers import SENTENCES

__all__ = ["desk", "hub", "models", "processes"]
TEXT = "\n".join(SENTENCES)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where a finished merge lies, for tests that only look at one."""
    return tmp_path_factory.mktemp("kept") / "merged"


@pytest.fixture
def merged(desk, kept):
    """A finished merge that was checked in full, every number of it, with questions, at the desk's `out`."""
    if not kept.exists():
        (text := desk.place / "text.txt").write_text(TEXT)
        (prompts := desk.place / "prompts.jsonl").write_text('{"prompt": "An adapter is"}\n')
        desk.done("merge", ADAPTER, "--out", desk.out, "--thorough", "--text", text, "--prompts", prompts)
        shutil.copytree(desk.out, kept)
    else:
        shutil.copytree(kept, desk.out)
    return desk.out


def deltas(models):
    """B·A times its scale for every changed tensor, in float64."""
    config = json.loads((models.adapter / "adapter_config.json").read_text())
    parts = {name: t.double() for name, t in load_file(models.adapter / "adapter_model.safetensors").items()}
    found = {}
    for name, a in parts.items():
        if name.endswith("lora_A.weight"):
            tensor = name.removeprefix("base_model.model.").replace("lora_A.", "")
            b = parts[name.replace("lora_A", "lora_B")]
            found[tensor] = config["lora_alpha"] / config["r"] * (b @ a)
    return found


def test_the_numbers_are_those_of_the_merge(desk, merged):
    found = read_report(merged).evidence
    base, after = (load_file(folder / "model.safetensors") for folder in (desk.models.base, merged))
    wanted = deltas(desk.models)
    assert {tensor.name for tensor in found.tensors} == set(wanted)
    for tensor in found.tensors:
        delta, start = wanted[tensor.name], base[tensor.name].double()
        assert tensor.relative_norm == pytest.approx(float(delta.norm() / start.norm()), rel=1e-3)
        assert tensor.rows == tensor.of_rows == len(start)
        exact = start + delta
        unit = torch.exp2(torch.floor(torch.log2(exact.abs())) - 23)
        errors = (after[tensor.name].double() - exact).abs() / unit
        assert tensor.worst_ulp == pytest.approx(float(errors.max()), rel=1e-2)
        assert tensor.median_ulp == pytest.approx(float(errors.median()), abs=0.1)
    assert sum(found.errors.counts[:11]) > 0.9 * sum(found.errors.counts) > 0
    energy = {}
    for name, delta in wanted.items():
        values = torch.linalg.svdvals(delta)[: found.spectra[0].rank] ** 2
        energy[address(name).label] = energy.get(address(name).label, 0) + values
    assert [spectrum.layer for spectrum in found.spectra] == sorted(energy)
    for spectrum in found.spectra:
        shares = energy[spectrum.layer] / energy[spectrum.layer].sum()
        assert spectrum.energy == pytest.approx(shares.tolist(), abs=1e-3)
    assert found.scores.merged == pytest.approx(found.scores.adapter, abs=1e-3)
    assert max(abs(a - b) for a, b in zip(found.scores.base, found.scores.adapter, strict=True)) > 0.05
    assert list(found.scores.adapter) == sorted(found.scores.adapter)


def test_what_was_asked_on_the_command_line_is_in_the_report(desk, merged):
    report = read_report(merged)
    assert report.level == "full"
    told = report.evidence.perplexity
    assert told.sha256 == hashlib.sha256(TEXT.encode()).hexdigest()
    assert told.merged == pytest.approx(told.adapter, rel=1e-5)
    [said] = report.evidence.continuations
    assert (said.prompt, said.agreement) == ("An adapter is", "same")
    tokenizer, model = AutoTokenizer.from_pretrained(merged), AutoModelForCausalLM.from_pretrained(merged)
    batch = tokenizer("An adapter is", return_tensors="pt")
    made = model.generate(**batch, max_new_tokens=20, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert said.merged == tokenizer.decode(made, skip_special_tokens=True)
    assert str(desk.place) not in (merged / "merge_report.json").read_text()


def test_the_numbers_seen_while_merging_are_those_seen_afterwards(desk, merged):
    first = read_report(merged).evidence
    desk.done("validate", merged, "--adapter", ADAPTER, "--validate", "tensors", "--thorough")
    second = read_report(merged).evidence
    assert (second.tensors, second.errors, second.spectra) == (first.tensors, first.errors, first.spectra)
    assert second.scores is None
    assert {p.name for p in (merged / "merge_report").iterdir()} == {"delta.png", "errors.png", "spectra.png"}


def test_text_and_pictures_lie_beside_the_weights_and_are_no_reason_to_merge_again(desk, merged):
    assert sorted(p.relative_to(merged).as_posix() for p in merged.rglob("*.png")) == sorted(PATHS)
    for file in ("merge_report.md", "README.md"):
        text = (merged / file).read_text()
        assert all(f"]({path})" in text for path in PATHS)
        assert str(desk.place) not in text
    assert desk.done("merge", ADAPTER, "--out", merged)["merged"] is None
    report = read_report(merged)
    assert not [name for name in report.files if name.startswith("merge_report")]
    assert (merged / "merge_report.json").stat().st_size < 40_000


def test_the_page_is_written_and_opened(desk, merged, monkeypatch):
    shown = []
    monkeypatch.setattr(webbrowser, "open", lambda url: shown.append(url) or True)
    answer = desk.done("report", merged, "--open")
    assert answer == {"page": str(merged / "merge_report.html"), "opened": True}
    assert shown == [(merged / "merge_report.html").as_uri()]
    other = desk.place / "page.html"
    told = desk("report", merged, "--out", other)
    assert (told.code, told.out.strip()) == (0, str(other))
    assert other.read_bytes() == (merged / "merge_report.html").read_bytes()
    assert other.read_text().count("data:image/png;base64,") == len(PATHS)
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    assert "no browser could be opened" in desk("report", merged, "--open").out


def test_a_folder_without_a_report_and_a_foreign_file_in_its_place(desk, merged):
    (merged / "merge_report.html").write_text("my notes")
    desk.refused("report", merged, code=3, reason="destination-exists")
    (merged / "merge_report.json").unlink()
    desk.refused("report", merged, code=2, reason="no-report")
    desk.refused("report", desk.models.base, code=2, reason="not-a-result")


def test_what_is_published_comes_from_the_record(desk, merged):
    desk.done("report", merged)
    good = (merged / PATHS[0]).read_bytes()
    (merged / PATHS[0]).write_bytes(b"something else")
    for name in ("merge_report.md", "merge_report.html"):
        (merged / name).write_text("something else")
    desk.done("publish", merged, "--to", "alice/pictured")
    files = desk.hub.files("alice/pictured")
    assert files[PATHS[0]].read_bytes() == good
    assert files["merge_report.md"].read_text().startswith("# Merge report")
    assert files["merge_report.html"].read_text().startswith("<!doctype html>")
    (merged / "merge_report" / "more.png").write_bytes(b"mine")
    answer = desk("publish", merged, "--to", "alice/more", "--json")
    assert (answer.code, answer.error["code"]) == (3, "changed-since-validation")


def test_pictures_of_an_earlier_result_leave_with_it(desk):
    desk.done("run", ADAPTER, "--to", "alice/again", "--validate", "tensors")
    assert {*PATHS} - desk.hub.files("alice/again").keys() == {
        "merge_report/scores.png",
        "merge_report/perplexity.png",
    }
    desk.done("run", ADAPTER, "--to", "alice/again", "--dtype", "float16", "--no-validate")
    files = desk.hub.files("alice/again")
    assert not [name for name in files if "merge_report" in name]
    assert "It was not checked" in Path(files["README.md"]).read_text()

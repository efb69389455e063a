"""The whole way through the real command line: plan, merge, validate, publish, run, against a Hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from bot.records import Plan, Publication, Report
from bot.serial import from_dict
from bot.weights.writer import ShardWriter
from tests.e2e import ADAPTER, BASE, desk, hub, models, processes
from tests.tiny.adapters import LORA_VARIANTS, save_adapter
from tests.tiny.models import load, save_base
from tests.tiny.tokenizers import train_tokenizer

__all__ = ["desk", "hub", "models", "processes"]
HERE = Path(__file__).parents[1]
CLOSE = {"atol": 1e-4, "rtol": 0}
ADAPTER_FILES = {"adapter_config.json", "adapter_model.safetensors"}
RECORDS = {
    "README.md",
    "merge_plan.json",
    "merge_report.json",
    "merge_provenance.json",
    "merge_report.md",
    "adapter_config.original.json",
}
PICTURES = {f"merge_report/{name}.png" for name in ("delta", "errors", "spectra")}
MODEL = {"config.json", "generation_config.json", "model.safetensors"}
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def commits(desk, repo_id):
    store = desk.hub.state.store
    repo = store.find("model", repo_id)
    return [commit.title for commit in store.history(repo, store.resolve(repo, "main"))]


def repository(desk, repo_id):
    return desk.hub.state.store.find("model", repo_id)


def weights_of(folder):
    """Bytes of its tensors."""
    return sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())


# plan


def test_a_plan_is_its_record_and_reads_no_weights(desk):
    record = from_dict(Plan, desk.done("plan", ADAPTER, "--to", "alice/merged"))
    assert record.base.location == BASE
    assert record.base.commit == repository(desk, BASE).main
    assert record.adapter.commit == repository(desk, ADAPTER).main
    assert {b.method for b in record.bindings} == {"lora"}
    assert len(record.bindings) == 14
    assert record.estimate.output_bytes == weights_of(desk.models.base)
    ranges = [r.range for r in desk.hub.requests if r.path.startswith("/blobs/")]
    assert all(text and text.startswith("bytes=0-") for text in ranges)
    assert (
        desk.weights_read() <= 120_000
    )  # one range for the base's header, and the adapter is smaller than one
    assert desk.clean()
    assert not (desk.root / "cache").exists()


def test_a_plan_of_a_large_model_reads_its_header_only(desk):
    base = desk.place / "big"
    shutil.copytree(desk.models.base, base)
    tensors = load_file(base / "model.safetensors") | {"unused.weight": torch.zeros(3_000_000)}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    desk.hub.commit("acme/big", base)
    desk.hub.clear_requests()
    assert desk.done("plan", ADAPTER, "--base", "acme/big")["estimate"]["output_bytes"] > 12_000_000
    assert desk.weights_read() <= 120_000


def test_a_plan_reads_well_as_text(desk):
    answer = desk("plan", ADAPTER)
    assert answer.code == 0
    for words in (ADAPTER, BASE, "14 tensors by LoRA", "to fetch", "nowhere yet"):
        assert words in answer.out


# merge and validate


def test_a_revision_and_a_subfolder_become_a_folder_that_plain_transformers_loads(desk):
    folder = desk.adapter("runs", base=BASE)
    desk.hub.commit("alice/runs", {f"epoch-2/{p.name}": p for p in folder.iterdir()}, revision="v1")
    desk.hub.commit("alice/runs", {f"epoch-2/{p.name}": None for p in folder.iterdir()})
    answer = desk.done("merge", "alice/runs@v1:epoch-2", "--out", desk.out)
    assert answer["plan"]["adapter"]["subfolder"] == "epoch-2"
    assert answer["plan"]["adapter"]["revision"] == "v1"
    assert answer["report"]["verdict"] == "passed"
    assert {p.name for p in desk.out.iterdir()} == MODEL | TOKENIZER | RECORDS | {"merge_report"}
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), **CLOSE)
    assert (desk.plain(desk.models.base) - desk.wanted()).abs().max() > 0.1
    assert (desk.out / "adapter_config.original.json").read_bytes() == (
        folder / "adapter_config.json"
    ).read_bytes()
    assert desk.keeps_secrets(desk.out)
    assert desk.clean("merged", "runs")


def test_bfloat16_where_it_is_asked_for(desk):
    answer = desk.done("merge", ADAPTER, "--out", desk.out, "--dtype", "bfloat16")
    tensors = load_file(desk.out / "model.safetensors")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert json.loads((desk.out / "config.json").read_text())["dtype"] == "bfloat16"
    assert answer["merged"]["total_bytes"] == weights_of(desk.models.base) // 2
    assert load(desk.out).dtype == torch.bfloat16
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), atol=0.1)


def test_a_second_merge_finds_the_first_and_another_dtype_replaces_it(desk):
    desk.done("merge", ADAPTER, "--out", desk.out)
    written = (desk.out / "model.safetensors").stat().st_mtime_ns
    again = desk.done("merge", ADAPTER, "--out", desk.out)
    assert again["merged"] is None
    assert again["report"]["verdict"] == "passed"
    assert (desk.out / "model.safetensors").stat().st_mtime_ns == written
    assert desk.done("merge", ADAPTER, "--out", desk.out, "--dtype", "float16")["merged"]["merged"] == 14
    assert {t.dtype for t in load_file(desk.out / "model.safetensors").values()} == {torch.float16}
    assert desk.clean("merged")


def test_shards_and_their_index_survive(desk):
    base = save_base(desk.place / "base", "llama", shards=3)
    adapter = desk.adapter(base=str(base))
    desk.done("merge", adapter, "--out", desk.out)
    names = [p.name for p in sorted(base.glob("*.safetensors"))]
    assert [p.name for p in sorted(desk.out.glob("*.safetensors"))] == names
    index = "model.safetensors.index.json"
    assert (desk.out / index).read_bytes() == (base / index).read_bytes()
    assert torch.allclose(desk.plain(desk.out), desk.wanted(adapter, base=base), **CLOSE)


@pytest.mark.slow
def test_validate_passes_and_a_changed_byte_is_found(desk):
    desk.done("merge", ADAPTER, "--out", desk.out, "--no-validate")
    assert not (desk.out / "merge_report.json").exists()
    report = from_dict(Report, desk.done("validate", desk.out, "--adapter", ADAPTER))
    assert (report.verdict, report.level) == ("passed", "full")
    assert report.check("logits").verdict == "passed"
    assert from_dict(Report, json.loads((desk.out / "merge_report.json").read_text())) == report
    weights = desk.out / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-2] ^= 0x04  # in a norm that the adapter leaves alone, or in the last merged tensor: either is wrong
    weights.write_bytes(data)
    answer = desk("publish", desk.out, "--to", "alice/tampered", "--json")
    assert (answer.code, answer.error["code"]) == (3, "changed-since-validation")
    told, asked = (desk("validate", desk.out, "--adapter", ADAPTER, *more) for more in ([], ["--json"]))
    assert (told.code, asked.code, asked.error["exit_code"]) == (7, 7, 7)
    assert asked.json["report"]["verdict"] == "failed"
    assert "✗" in told.err
    assert "Error: The merged model failed" in told.err
    assert repository(desk, "alice/tampered") is None
    answer = desk("publish", desk.out, "--to", "alice/tampered", "--json")
    assert (answer.code, answer.error["code"]) == (3, "not-validated")


def test_validate_names_another_adapter_as_what_is_wrong(desk):
    desk.done("merge", ADAPTER, "--out", desk.out)
    other = save_adapter(
        desk.place / "other", desk.models.base, config=LORA_VARIANTS["plain"], architecture="llama", seed=9
    )
    answer = desk("validate", desk.out, "--adapter", other, "--validate", "tensors", "--json")
    assert answer.code == 7
    assert answer.error["code"] == "validation-changed"


# publish


@pytest.mark.slow
def test_a_folder_is_published_once_and_private(desk):
    desk.done("merge", ADAPTER, "--out", desk.out)
    first = from_dict(Publication, desk.done("publish", desk.out, "--to", "alice/published"))
    assert first.url == f"{desk.hub.url}/alice/published"
    assert first.existed is False
    assert repository(desk, "alice/published").private is True
    files = desk.hub.files("alice/published")
    assert files.keys() - {".gitattributes"} == MODEL | TOKENIZER | RECORDS | PICTURES
    assert files["model.safetensors"].read_bytes() == (desk.out / "model.safetensors").read_bytes()
    before = desk.state()
    again = from_dict(Publication, desk.done("publish", desk.out, "--to", "alice/published"))
    assert (again.url, again.commit, again.existed) == (first.url, first.commit, True)
    assert desk.state() == before
    for path in files.values():
        assert str(desk.place).encode() not in path.read_bytes()
        assert not any(token.encode() in path.read_bytes() for token in desk.tokens)
    assert torch.allclose(desk.plain("alice/published"), desk.wanted(), **CLOSE)


def test_a_folder_is_published_to_a_folder(desk):
    desk.done("merge", ADAPTER, "--out", desk.out)
    assert desk.done("publish", desk.out, "--to", desk.place / "copy")["existed"] is False
    assert desk.done("publish", desk.out, "--to", desk.place / "copy")["existed"] is True
    assert torch.equal(desk.plain(desk.place / "copy"), desk.plain(desk.out))
    assert desk.clean("merged", "copy")


def test_public_only_where_it_is_asked_for(desk):
    desk.done("run", ADAPTER, "--to", "alice/open", "--public", "--validate", "structure")
    assert repository(desk, "alice/open").private is False
    assert commits(desk, "alice/open")[0].startswith("Merge")


def test_without_a_report_nothing_is_published(desk):
    desk.done("merge", ADAPTER, "--out", desk.out, "--no-validate")
    desk.refused("publish", desk.out, "--to", "alice/unproven", code=3, reason="not-validated")
    desk.refused("publish", desk.models.base, "--to", "alice/unproven", code=2, reason="not-a-result")
    assert repository(desk, "alice/unproven") is None


@pytest.mark.slow
def test_a_merge_that_fails_its_checks_is_published_nowhere(desk, monkeypatch):
    honest = ShardWriter.write

    def corrupt(self, spec, data, **given):
        wrong = np.roll(data, 1, axis=0) if "1.mlp.up_proj" in spec.name else data
        honest(self, spec, wrong, **given)

    monkeypatch.setattr(ShardWriter, "write", corrupt)
    before = desk.state()
    for place in ("alice/wrong", desk.out):
        for flags in ([], ["--json"]):
            answer = desk("run", ADAPTER, "--to", place, *flags)
            assert answer.code == 7
        assert answer.error["code"] == "validation-changed"
        assert "up_proj" in json.dumps(answer.json["report"])
    assert desk("merge", ADAPTER, "--out", desk.out).code == 7
    assert desk("run", ADAPTER, "--to", ADAPTER, "--pr").code == 7
    assert desk.state() == before


def test_a_merge_of_a_private_or_gated_base_stays_as_private_as_it(desk):
    for kind in ("private", "gated"):
        desk.hub.commit(f"acme/closed-{kind}", desk.models.base, **{kind: True})
        desk.push(f"alice/lora-{kind}", desk.models.adapter, base=f"acme/closed-{kind}")
        arguments = ["run", f"alice/lora-{kind}", "--no-validate", "--to"]
        desk.refused(*arguments, "alice/leak", "--public", code=3, reason="wider-than-base")
        desk.refused(*arguments, f"alice/lora-{kind}", "--pr", code=3, reason="wider-than-base")
        desk.done(*arguments, f"alice/kept-{kind}")
        assert repository(desk, f"alice/kept-{kind}").private is True


def test_the_read_token_reads_and_the_write_token_writes(desk):
    desk.push("bob/secret-lora", desk.models.adapter, private=True)
    desk.sit(None)
    desk.set(MERGE_BOT_READ_TOKEN=desk.hub.token("bob"), MERGE_BOT_WRITE_TOKEN=desk.hub.token("carol"))
    desk.done("run", "bob/secret-lora", "--to", "carol/merged", "--validate", "structure")
    users = {r.user for r in desk.hub.requests if "secret-lora" in r.path or BASE in r.path}
    assert users == {"bob"}
    assert {r.user for r in desk.hub.requests if "carol/merged" in r.path} == {"carol"}
    assert repository(desk, "carol/merged").private is True


def test_a_repository_of_somebody_else_is_left_alone(desk):
    desk.refused("run", ADAPTER, "--to", BASE, "--no-validate", code=3, reason="destination-exists")
    desk.refused("run", ADAPTER, "--to", ADAPTER, "--no-validate", code=3, reason="destination-exists")
    desk.refused("run", ADAPTER, "--to", "alice/missing", "--pr", "--no-validate", code=2, reason="not-found")


# run


def test_run_twice_makes_one_commit(desk):
    first = desk.done("run", ADAPTER, "--to", "alice/merged")
    assert first["report"]["level"] == "full"
    assert first["report"]["verdict"] == "passed"
    assert from_dict(Publication, first["publication"]).existed is False
    before = desk.state()
    desk.hub.clear_requests()
    second = desk.done("run", ADAPTER, "--to", "alice/merged")
    assert second["publication"]["existed"] is True
    assert second["publication"]["url"] == first["publication"]["url"]
    assert second["publication"]["commit"] == first["publication"]["commit"]
    assert not any(r.method in {"POST", "PUT", "DELETE"} for r in desk.hub.requests)
    assert desk.state() == before
    assert "Published by an earlier run" in desk("run", ADAPTER, "--to", "alice/merged").err
    assert torch.allclose(desk.plain("alice/merged"), desk.wanted(), **CLOSE)
    assert desk.clean()


def test_a_new_commit_of_the_adapter_is_a_new_result_in_the_same_repository(desk):
    desk.push("alice/evolving", desk.models.adapter)
    first = desk.done("run", "alice/evolving", "--to", "alice/evolved", "--validate", "structure")
    other = save_adapter(
        desk.place / "v2", desk.models.base, config=LORA_VARIANTS["rslora"], architecture="llama", seed=5
    )
    desk.push("alice/evolving", other)
    second = desk.done("run", "alice/evolving", "--to", "alice/evolved", "--validate", "structure")
    assert second["publication"]["existed"] is False
    assert second["plan"]["key"] != first["plan"]["key"]
    assert torch.allclose(desk.plain("alice/evolved"), desk.wanted(other), **CLOSE)


def test_a_pr_on_the_adapters_own_repository_holds_the_merged_model_alone(desk):
    desk.push("alice/own", desk.models.adapter)
    main = repository(desk, "alice/own").main
    done = from_dict(Publication, desk.done("run", "alice/own", "--to", "alice/own", "--pr")["publication"])
    assert done.number == 1
    assert done.url == f"{desk.hub.url}/alice/own/discussions/1"
    assert repository(desk, "alice/own").main == main
    files = desk.hub.files("alice/own", revision="refs/pr/1")
    assert not ADAPTER_FILES & files.keys()
    assert files.keys() >= MODEL | TOKENIZER | RECORDS
    live = desk.wanted()
    assert torch.allclose(desk.plain("alice/own", revision="refs/pr/1"), live, **CLOSE)
    assert torch.allclose(desk.plain("alice/own"), live, **CLOSE)  # main still is the adapter
    again = from_dict(Publication, desk.done("run", "alice/own", "--to", "alice/own", "--pr")["publication"])
    assert (again.url, again.number, again.existed) == (done.url, 1, True)
    assert list(repository(desk, "alice/own").pulls) == ["1"]
    thread = desk.hub.state.store.discussion(repository(desk, "alice/own"), 1)
    assert 3 <= len(thread.title) <= 200
    assert thread.status == "open"


def test_a_pr_on_somebody_elses_repository(desk):
    desk.push("alice/shared", desk.models.adapter)
    desk.sit("bob")
    done = desk.done("run", "alice/shared", "--to", "alice/shared", "--pr", "--validate", "structure")
    assert done["publication"]["number"] == 1
    assert desk.hub.state.store.discussion(repository(desk, "alice/shared"), 1).author == "bob"


def test_run_into_a_folder_twice(desk, monkeypatch):
    monkeypatch.chdir(desk.place)
    first = desk.done("run", ADAPTER, "--to", "./merged")
    assert first["publication"] == {
        "destination": {"kind": "folder", "location": str(desk.out), "public": False},
        "url": str(desk.out),
        "commit": None,
        "number": None,
        "existed": False,
        "checks": [],
    }
    assert desk.done("run", ADAPTER, "--to", "./merged")["publication"]["existed"] is True
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), **CLOSE)
    assert desk.clean("merged")


def test_a_dry_run_leaves_nothing_anywhere(desk):
    desk.push("alice/dry", desk.models.adapter)
    before = desk.state()
    desk.done("merge", "alice/dry", "--out", desk.out, "--dry-run")
    for destination in (["./dry"], [str(desk.out)], ["alice/dry-merged"], ["alice/dry", "--pr"]):
        answer = desk("run", "alice/dry", "--to", *destination, "--dry-run", "--validate", "tensors")
        assert answer.code == 0, answer.err
        assert "Dry run: nothing was written." in answer.out
    assert desk.state() == before
    assert not Path("dry").exists()
    desk.done("merge", "alice/dry", "--out", desk.out)
    before = desk.state()
    desk.done("publish", desk.out, "--to", "alice/dry-published", "--dry-run")
    desk.done("validate", desk.out, "--adapter", "alice/dry", "--dry-run", "--validate", "structure")
    assert desk.state() == before
    assert not any(r.method in {"POST", "PUT", "DELETE"} for r in desk.hub.requests)


def test_a_renamed_base_is_followed(desk):
    desk.hub.commit("acme/old-name", desk.models.base)
    adapter = desk.push("alice/on-old-name", desk.models.adapter, base="acme/old-name")
    desk.hub.rename("acme/old-name", "acme/new-name")
    plan = desk.done("merge", adapter, "--out", desk.out)["plan"]
    assert plan["base"]["location"] == "acme/new-name"
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), **CLOSE)


def test_a_classifier_is_published_and_loads_as_one(desk):
    base = save_base(desk.place / "base", "llama_seqcls")
    adapter = save_adapter(
        desk.place / "adapter",
        base,
        config=LORA_VARIANTS["seq_cls"],
        architecture="llama_seqcls",
        num_labels=3,
    )
    (adapter / "README.md").unlink()
    desk.hub.commit("acme/classes", base)
    desk.push("alice/classes-lora", adapter, base="acme/classes")
    done = desk.done("run", "alice/classes-lora", "--to", "alice/classifier")
    assert done["plan"]["model_class"] == "LlamaForSequenceClassification"
    got = desk.plain("alice/classifier", auto="AutoModelForSequenceClassification")
    assert torch.allclose(got, desk.wanted(adapter, base=base, num_labels=3), **CLOSE)
    assert "pipeline_tag: text-classification" in desk.hub.files("alice/classifier")["README.md"].read_text()


def test_the_adapters_tokenizer_and_chat_template_win(desk):
    adapter = desk.adapter(base=BASE)
    template = "{% for message in messages %}<s>ours: {{ message['content'] }}</s>{% endfor %}"
    train_tokenizer(adapter, chat_template=template, vocab_size=380)
    desk.push("alice/with-tokenizer", adapter)
    desk.done("run", "alice/with-tokenizer", "--to", desk.out)
    for name in TOKENIZER:
        assert (desk.out / name).read_bytes() == (adapter / name).read_bytes(), name
    tokenizer = AutoTokenizer.from_pretrained(desk.out)
    assert len(tokenizer) == 380
    chat = [{"role": "user", "content": "hello"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<s>ours: hello</s>"
    assert torch.allclose(desk.plain(desk.out), desk.wanted(), **CLOSE)


def test_a_chat_template_alone_wins_too(desk):
    adapter = desk.adapter(base=BASE)
    (adapter / "chat_template.jinja").write_text("ours")
    desk.done("merge", desk.push("alice/with-template", adapter), "--out", desk.out)
    assert (desk.out / "chat_template.jinja").read_text() == "ours"
    assert (desk.out / "tokenizer.json").read_bytes() == (desk.models.base / "tokenizer.json").read_bytes()


def test_a_local_adapter_is_published_without_the_paths_of_this_machine(desk):
    adapter = desk.adapter(base=BASE, loftq_config={"loftq_bits": 4}, megatron_core="os")
    done = desk.done("run", adapter, "--to", "alice/from-here", "--validate", "tensors")
    assert {p["key"] for p in done["plan"]["patches"]} >= {"loftq_config", "megatron_core"}
    for name, path in desk.hub.files("alice/from-here").items():
        assert str(desk.root).encode() not in path.read_bytes(), name


@pytest.mark.slow
def test_other_kinds_of_lora(desk):
    for kind in ("dora_rslora_patterns", "save_embed_and_head", "embedding"):
        adapter = save_adapter(
            desk.place / kind, desk.models.base, config=LORA_VARIANTS[kind], architecture="llama", seed=3
        )
        out = desk.place / f"{kind}-merged"
        assert desk.done("run", adapter, "--to", out)["report"]["verdict"] == "passed"
        assert torch.allclose(desk.plain(out), desk.wanted(adapter), **CLOSE), kind


# The process


@pytest.mark.slow
def test_python_m_bot_does_the_whole_way(desk):
    """Nothing of pytest's process in between: its own imports, its own cache, exit code, stdout and stderr."""
    home = desk.root / "home"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "MERGE_BOT_"))}
    environment = kept | desk.hub.environment("alice") | {"HF_HOME": str(home), "TMPDIR": str(desk.scratch)}
    command = [sys.executable, "-m", "bot", "run", ADAPTER, "--to", "alice/from-a-process", "--json", "-vv"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=HERE, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["report"]["verdict"] == "passed"
    assert document["publication"]["url"] == f"{desk.hub.url}/alice/from-a-process"
    assert "HTTP Request: " in done.stderr  # libraries did log
    assert not any(token in done.stdout + done.stderr for token in desk.tokens)
    assert not any(line.startswith("Error") for line in done.stderr.splitlines())
    assert desk.keeps_secrets(home)
    assert [p for p in desk.scratch.rglob("*") if p.is_file()] == []
    assert torch.allclose(desk.plain("alice/from-a-process"), desk.wanted(), **CLOSE)


@pytest.mark.slow
def test_a_merge_in_a_process_of_its_own_is_the_same_to_the_byte(desk):
    desk.done("merge", ADAPTER, "--out", desk.place / "here")
    desk.apart()
    report = desk.done("merge", ADAPTER, "--out", desk.out)["report"]
    assert report["isolation"].startswith("a process of its own without tokens, network ")
    for name in ("model.safetensors", "config.json", "adapter_config.original.json"):
        assert (desk.out / name).read_bytes() == (desk.place / "here" / name).read_bytes()
    assert desk.keeps_secrets(desk.out)
    assert report["isolation"] in desk("validate", desk.out, "--adapter", ADAPTER, "--validate=tensors").out


@pytest.mark.slow
def test_the_whole_way_to_the_hub_in_a_process_of_its_own(desk):
    desk.apart()
    found = desk.done("run", ADAPTER, "--to", "alice/apart")
    assert found["report"]["verdict"] == "passed"
    assert [check["verdict"] for check in found["publication"]["checks"]] == ["passed", "passed"]
    assert found["report"]["checks"][-1]["verdict"] == "passed"
    assert "model.safetensors" in desk.hub.files("alice/apart")
    files = desk.hub.files("alice/apart").values()
    assert not any(token.encode() in path.read_bytes() for token in desk.tokens for path in files)

"""`merge-bot verify` through the real command line: what was published, against what it says about itself."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save

from bot.provenance import Verification
from bot.publish import schemas
from bot.publish.result import PLAN_FILE, PROVENANCE_FILE, REPORT_FILE
from bot.serial import from_dict
from tests.e2e import ADAPTER, BASE, desk, hub, models, processes

__all__ = ["desk", "hub", "models", "processes"]
MADE, PLACE = "alice/made-once", "alice/verified"


@pytest.fixture
def place(desk):
    """A published merge: made once, its files in a repository that the next test gets anew."""
    if desk.hub.state.store.find("model", MADE) is None:
        desk.done("run", ADAPTER, "--to", MADE, "--validate", "structure", "--dtype", "bfloat16")
    desk.hub.commit(PLACE, desk.hub.files(MADE))
    desk.hub.clear_requests()
    yield PLACE
    desk.hub.delete_repo(PLACE)


def content(desk, name, place=PLACE):
    return desk.hub.files(place)[name].read_bytes()


def found(desk, *arguments):
    return from_dict(Verification, desk.done("verify", *arguments))


def failed(desk, *arguments, reason):
    """The verification of a command that has to find something wrong, and its sentence."""
    before = desk.state()
    told, asked = desk("verify", *arguments), desk("verify", *arguments, "--json")
    assert (told.code, asked.code, asked.error["exit_code"], asked.error["code"]) == (7, 7, 7, reason), (
        told.err
    )
    assert "✗ Verification failed" in told.err
    assert told.out == ""
    *_, sentence, advice = told.err.splitlines()
    assert sentence == f"Error: {asked.error['sentence']} [{reason}]"
    assert advice.startswith("Advice: Do not rely on it")
    assert desk.state() == before
    return asked.json["verification"], asked.error["sentence"]


def states(verification, which="files"):
    files = (
        verification[which]
        if isinstance(verification, dict)
        else [f.__dict__ for f in getattr(verification, which)]
    )
    return {file["name"]: file["state"] for file in files if file["state"] != "same"}


def rewritten(data: bytes, folder: Path) -> bytes:
    """The same weights with one number changed."""
    path = folder / "weights.safetensors"
    path.write_bytes(data)
    tensors = load_file(path)
    name = min(tensors)
    tensors[name] = tensors[name].clone()
    tensors[name].reshape(-1)[3] += 1
    path.unlink()
    return save(tensors, metadata={"format": "pt"})


# what is good


def test_a_repository_is_verified_without_its_weights(desk, place):
    verification = found(desk, place)
    assert verification.verdict == "passed"
    assert states(verification) == {}
    names = {file.name for file in verification.files}
    assert names == desk.hub.files(place).keys() - {".gitattributes", PROVENANCE_FILE}
    assert {"model.safetensors", "README.md", PLAN_FILE, REPORT_FILE, "tokenizer.json"} <= names
    assert desk.weights_read() == 0
    assert verification.adapters[0].location == ADAPTER
    told = desk("verify", place)
    assert f"✓ Verification passed: {len(names)} of {len(names)} files as published" in told.out
    assert "nothing here is signed" in " ".join(told.out.split())


def test_a_folder_and_the_same_one_validated_again_and_copied(desk):
    desk.done("merge", ADAPTER, "--out", desk.out)
    assert states(found(desk, desk.out)) == {}
    desk.done("validate", desk.out, "--adapter", ADAPTER, "--validate", "structure")
    assert states(found(desk, desk.out)) == {}
    desk.done("publish", desk.out, "--to", desk.place / "copy")
    assert states(found(desk, desk.place / "copy")) == {}


def test_a_merge_that_was_proposed_beside_the_adapters_other_files(desk):
    adapter = desk.push("alice/beside", desk.adapter("beside"))
    desk.hub.commit(adapter, {"notes.txt": "of the training", "training_args.bin": b"\x80" * 3000})
    done = desk.done("run", adapter, "--to", adapter, "--pr", "--validate", "structure")
    number = done["publication"]["number"]
    verification = found(desk, f"{adapter}@refs/pr/{number}")
    assert states(verification) == {"notes.txt": "kept", "training_args.bin": "kept"}


def test_a_card_may_be_edited(desk, place):
    desk.hub.commit(place, {"README.md": "Mine now."})
    verification = found(desk, place)
    assert (verification.verdict, states(verification)) == ("passed", {"README.md": "edited"})
    assert "was edited" in desk("verify", place).out


# what is wrong


def test_a_changed_shard(desk, place, tmp_path):
    desk.hub.commit(place, {"model.safetensors": rewritten(content(desk, "model.safetensors"), tmp_path)})
    verification, sentence = failed(desk, place, reason="verify-differs")
    assert states(verification) == {"model.safetensors": "differs"}
    assert "model.safetensors differs" in sentence
    assert desk.weights_read() == 0


def test_a_changed_tokenizer(desk, place):
    text = content(desk, "tokenizer.json").decode()
    desk.hub.commit(place, {"tokenizer.json": text + " "})
    verification, sentence = failed(desk, place, reason="verify-differs")
    assert states(verification) == {"tokenizer.json": "differs"}
    assert "tokenizer.json differs" in sentence


def test_a_missing_file(desk, place):
    desk.hub.commit(place, {"generation_config.json": None})
    verification, _ = failed(desk, place, reason="verify-missing")
    assert states(verification) == {"generation_config.json": "missing"}


def test_an_additional_file(desk, place):
    desk.hub.commit(place, {"adapter_config.json": "{}", "modeling_tiny.py": "import os"})
    verification, sentence = failed(desk, place, reason="verify-additional")
    assert states(verification) == {"adapter_config.json": "additional", "modeling_tiny.py": "additional"}
    assert "adapter_config.json is additional, and 1 more" in sentence


def test_adapter_files_in_their_own_repository_are_additional_all_the_same(desk):
    adapter = desk.push("alice/own-verified", desk.adapter("own"))
    desk.done("run", adapter, "--to", adapter, "--pr", "--validate", "structure")
    files = {name: content(desk, name, adapter) for name in desk.hub.files(adapter)}
    files |= {p: path.read_bytes() for p, path in desk.hub.files(adapter, revision="refs/pr/1").items()}
    desk.hub.commit("alice/own-verified", files)
    verification, _ = failed(desk, adapter, reason="verify-additional")
    assert states(verification) == {
        "adapter_config.json": "additional",
        "adapter_model.safetensors": "additional",
    }


def test_a_report_about_another_plan(desk, place):
    report = json.loads(content(desk, REPORT_FILE)) | {"plan_key": "0" * 32}
    desk.hub.commit(place, {REPORT_FILE: json.dumps(report)})
    verification, sentence = failed(desk, place, reason="verify-contradiction")
    assert "is about the plan 0000" in sentence
    assert states(verification) == {REPORT_FILE: "differs"}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (REPORT_FILE, lambda d: d["base"].update(commit="0" * 40), "about another adapter or base"),
        (REPORT_FILE, lambda d: d.update(verdict="failed"), "says that the checks were failed"),
        (REPORT_FILE, lambda d: d["files"].pop("model.safetensors"), "says nothing of model.safetensors"),
        (
            REPORT_FILE,
            lambda d: d["files"].update({"config.json": "0" * 64}),
            "different digests of config.json",
        ),
        (PLAN_FILE, lambda d: d.update(key="0" * 32), "is about the plan"),
        (
            PROVENANCE_FILE,
            lambda d: d["predicate"]["buildDefinition"]["resolvedDependencies"].clear(),
            "does not name alice/tiny-lora",
        ),
    ],
)
def test_records_that_contradict_each_other(desk, place, name, change, said):
    document = json.loads(content(desk, name))
    change(document)
    desk.hub.commit(place, {name: json.dumps(document)})
    _, sentence = failed(desk, place, reason="verify-contradiction")
    assert said in sentence


# what says nothing about itself


def test_without_a_report_or_a_plan_there_is_nothing_to_verify(desk, place):
    error = desk.refused("verify", BASE, code=2, reason="not-a-result")
    assert "merge-bot validate" in error["advice"]
    desk.hub.commit(place, {REPORT_FILE: None})
    desk.refused("verify", place, code=2, reason="no-report")
    desk.refused("verify", "alice/nowhere", code=2, reason="not-found")


def test_a_result_of_before_there_were_statements(desk, place):
    desk.hub.commit(place, {PROVENANCE_FILE: None})
    verification = found(desk, place)
    assert verification.verdict == "passed"
    assert any(PROVENANCE_FILE in note for note in verification.notes)
    desk.hub.commit(place, {"config.json": "{}"})
    failed(desk, place, reason="verify-differs")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (REPORT_FILE, "[" * 100_000),
        (REPORT_FILE, '{"schema": 2}'),
        (PLAN_FILE, "null"),
        (PROVENANCE_FILE, '{"_type": "https://in-toto.io/Statement/v0.1"}'),
    ],
)
def test_broken_records_are_no_result(desk, place, name, text):
    desk.hub.commit(place, {name: text})
    assert name in desk.refused("verify", place, code=2, reason="not-a-result")["sentence"]


# what went in


@pytest.fixture
def own(desk):
    """A published merge of an adapter and a base of its own, which a test may take away."""
    base = desk.place / "own-base"
    shutil.copytree(desk.models.base, base)
    desk.hub.commit("acme/own-base", base)
    desk.push("alice/own-lora", desk.models.adapter, base="acme/own-base")
    options = ["--validate", "structure", "--reload", "never"]
    desk.done("run", "alice/own-lora", "--to", "alice/own-merge", *options)
    yield "alice/own-merge"
    for name in ("acme/own-base", "alice/own-lora", "alice/own-merge", "acme/own-base-moved"):
        if desk.hub.state.store.find("model", name):
            desk.hub.delete_repo(name)


def retold(desk, place, **words):
    """Plan, report and statement with these words in the place of others, and the digests that fit them."""
    files = {name: content(desk, name, place) for name in (PLAN_FILE, REPORT_FILE, PROVENANCE_FILE)}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    for old, new in words.items():
        files = {name: data.replace(old.encode(), new.encode()) for name, data in files.items()}
    for name in (PLAN_FILE, REPORT_FILE):
        now = hashlib.sha256(files[name]).hexdigest()
        files[PROVENANCE_FILE] = files[PROVENANCE_FILE].replace(digests[name].encode(), now.encode())
    desk.hub.commit(place, files)


def test_every_file_that_went_in_is_looked_at_again(desk, own):
    desk.hub.clear_requests()
    verification = found(desk, own)
    statement = json.loads(content(desk, PROVENANCE_FILE, own))
    named = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {file.name for file in verification.inputs} == {d["name"] for d in named if "/" in d["name"]}
    assert {file.state for file in verification.inputs} == {"same"}
    assert {"base/model.safetensors", "base/config.json", "adapter/adapter_model.safetensors"} <= {
        file.name for file in verification.inputs
    }
    assert desk.weights_read() == 0
    count = len(verification.inputs)
    assert f"of what went in, {count} of {count} files as on the Hub" in desk("verify", own).out


@pytest.mark.parametrize("name", ["base/model.safetensors", "adapter/adapter_config.json"])
def test_an_input_that_the_statement_has_otherwise(desk, own, name):
    statement = json.loads(content(desk, PROVENANCE_FILE, own))
    named = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    [one] = [d for d in named if d["name"] == name]
    one["digest"]["sha256"] = "0" * 64
    desk.hub.commit(own, {PROVENANCE_FILE: json.dumps(statement)})
    verification, sentence = failed(desk, own, reason="verify-inputs")
    assert states(verification, "inputs") == {name: "differs"}
    assert f"was not made of what it names: {name} differs" in sentence


def test_another_commit_of_the_base(desk, own, tmp_path):
    then = desk.hub.state.store.find("model", "acme/own-base").main
    other = rewritten(content(desk, "model.safetensors", "acme/own-base"), tmp_path)
    retold(desk, own, **{then: desk.hub.commit("acme/own-base", {"model.safetensors": other})})
    verification, _ = failed(desk, own, reason="verify-inputs")
    assert states(verification, "inputs") == {"base/model.safetensors": "differs"}
    retold(desk, own, **{desk.hub.state.store.find("model", "acme/own-base").main: "0" * 40})
    verification = found(
        desk, own
    )  # a commit that nobody has can no more be looked at than one that was removed
    assert set(states(verification, "inputs").values()) == {"unchecked"}


def test_a_statement_that_has_an_input_from_elsewhere_or_leaves_them_out(desk, own):
    statement = json.loads(content(desk, PROVENANCE_FILE, own))
    named = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    definition = statement["predicate"]["buildDefinition"]
    definition["resolvedDependencies"] = [d for d in named if not d["name"].startswith("base/")]
    desk.hub.commit(own, {PROVENANCE_FILE: json.dumps(statement)})
    _, sentence = failed(desk, own, reason="verify-contradiction")
    assert "names no file of acme/own-base" in sentence
    for one in named:
        one["uri"] = (
            one["uri"].replace("own-base@", "tiny@") if one["name"].startswith("base/") else one["uri"]
        )
    definition["resolvedDependencies"] = named
    desk.hub.commit(own, {PROVENANCE_FILE: json.dumps(statement)})
    _, sentence = failed(desk, own, reason="verify-contradiction")
    assert "from pkg:huggingface/acme/tiny@" in sentence


@pytest.mark.parametrize("fate", ["gone", "private", "gated", "silent"])
def test_what_cannot_be_looked_at_any_more_is_neither_good_nor_bad(desk, own, fate):
    if fate == "gone":
        desk.hub.delete_repo("acme/own-base")
    elif fate == "silent":
        desk.set(MERGE_BOT_ATTEMPTS="1")
        desk.hub.fault("/api/models/acme/own-base", status=503)
    else:
        desk.hub.commit("acme/own-base", {}, **{fate: True})
        desk.hub.commit("alice/own-merge", {}, private=False)
        desk.sit("bob")
        desk.hub.commit("alice/own-lora", {}, private=False)
    verification = found(desk, own)
    assert verification.verdict == "passed"
    left = states(verification, "inputs")
    assert set(left.values()) == {"unchecked"}
    assert "base/config.json" in left
    assert all(name.startswith("base/") for name in left)
    assert any("cannot be checked again" in note for note in verification.notes)
    assert "out of reach" in desk("verify", own).out


def test_a_repository_that_moved_is_looked_at_where_it_is(desk, own):
    desk.hub.rename("acme/own-base", "acme/own-base-moved")
    verification = found(desk, own)
    assert states(verification, "inputs") == {}
    assert "acme/own-base is acme/own-base-moved now" in verification.notes


def test_local_sources_are_for_nobody_else_to_look_at(desk):
    desk.done("merge", desk.adapter(), "--out", desk.out)
    verification = found(desk, desk.out)
    assert {file.state for file in verification.inputs} == {"unchecked"}
    assert sum("a local folder of whoever made it" in note for note in verification.notes) == 2


# merged again


def test_merging_again_on_another_number_of_cores_gives_the_same_bytes(desk, place):
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        verification = found(desk, place, "--rebuild")
    finally:
        os.sched_setaffinity(0, cores)
    made = json.loads(content(desk, PROVENANCE_FILE))["predicate"]["runDetails"]["metadata"]
    assert made["mergebot_machine"]["cores"] == len(cores)
    assert {file.state for file in verification.rebuilt} == {"same"}


def test_merging_again_gives_the_same_bytes(desk, place):
    desk.hub.commit(BASE, {"notes.txt": "later"})  # its main branch has moved on
    verification = found(desk, place, "--rebuild")
    assert verification.verdict == "passed"
    assert {file.state for file in verification.rebuilt} == {"same"}
    assert {file.name for file in verification.rebuilt} >= {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
    }
    assert "the same byte by byte" in desk("verify", place, "--rebuild").out
    assert desk.clean()


def test_a_forgery_that_fits_its_own_digests_is_found_by_merging_again(desk, place, tmp_path):
    forged = rewritten(content(desk, "model.safetensors"), tmp_path)
    honest, lie = (hashlib.sha256(d).hexdigest() for d in (content(desk, "model.safetensors"), forged))
    report = content(desk, REPORT_FILE).replace(honest.encode(), lie.encode())
    statement = content(desk, PROVENANCE_FILE).replace(honest.encode(), lie.encode())
    before = hashlib.sha256(content(desk, REPORT_FILE)).hexdigest()
    statement = statement.replace(before.encode(), hashlib.sha256(report).hexdigest().encode())
    files = {"model.safetensors": forged, REPORT_FILE: report, PROVENANCE_FILE: statement}
    desk.hub.commit(place, files)
    assert found(desk, place).verdict == "passed"
    verification, sentence = failed(desk, place, "--rebuild", reason="verify-rebuild")
    assert states(verification, "rebuilt") == {"model.safetensors": "differs"}
    assert "Merging again does not give" in sentence


def test_options_and_several_adapters_are_those_that_were_recorded(desk):
    second = desk.push("alice/second", desk.adapter("second"))
    options = ["--combination", "cat", "--weights", "0.75", "0.5", "--dtype", "float16", "--base", BASE]
    desk.done("merge", ADAPTER, second, *options, "--out", desk.out)
    assert {file.state for file in found(desk, desk.out, "--rebuild").rebuilt} == {"same"}
    whole = desk.place / "whole"
    desk.done("merge", ADAPTER, "--way", "whole", "--out", whole)
    assert {file.state for file in found(desk, whole, "--rebuild").rebuilt} == {"same"}


def test_a_local_source_is_merged_again_where_it_lies_and_nowhere_else(desk):
    adapter = desk.adapter()
    desk.done("merge", adapter, "--out", desk.out)
    assert {file.state for file in found(desk, desk.out, "--rebuild").rebuilt} == {"same"}
    desk.done("publish", desk.out, "--to", "alice/local")
    assert found(desk, "alice/local").verdict == "passed"
    desk.refused("verify", "alice/local", "--rebuild", code=3, reason="rebuild-local")
    (adapter / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text() + "\n")
    desk.refused("verify", desk.out, "--rebuild", code=3, reason="rebuild-other-plan")


@pytest.mark.parametrize("named", ["/etc", "../../etc", "./place"])
def test_a_plan_from_the_hub_opens_no_folder_of_this_machine(desk, place, named):
    for name in (PLAN_FILE, REPORT_FILE):
        document = json.loads(content(desk, name))
        document["adapter"]["location"] = named
        desk.hub.commit(place, {name: json.dumps(document)})
    desk.hub.commit(place, {PROVENANCE_FILE: None})
    desk.refused("verify", place, "--rebuild", code=3, reason="not-pinned")


# what is written down


def test_reports_plans_and_statements_as_they_are_written(desk, place):
    desk.done("merge", desk.adapter(), "--out", desk.out)
    for name in (REPORT_FILE, PLAN_FILE):
        assert schemas.against(json.loads(content(desk, name)), name) == []
        assert schemas.against(json.loads((desk.out / name).read_text()), name) == []
    for text in (content(desk, PROVENANCE_FILE).decode(), (desk.out / PROVENANCE_FILE).read_text()):
        assert str(desk.place) not in text
        assert str(desk.models.base) not in text
        assert str(desk.root) not in text


def test_a_statement_names_every_file_that_went_in_and_came_out(desk, place):
    statement = json.loads(content(desk, PROVENANCE_FILE))
    assert (statement["_type"], statement["predicateType"]) == (
        "https://in-toto.io/Statement/v1",
        "https://slsa.dev/provenance/v1",
    )
    out = {one["name"]: one["digest"] for one in statement["subject"]}
    files = desk.hub.files(place)
    assert out.keys() == files.keys() - {".gitattributes", PROVENANCE_FILE}
    for name, digest in out.items():
        assert digest == {"sha256": hashlib.sha256(files[name].read_bytes()).hexdigest()}
    definition = statement["predicate"]["buildDefinition"]
    went_in = {one["name"]: one for one in definition["resolvedDependencies"]}
    for role, repo_id in (("adapter", ADAPTER), ("base", BASE)):
        commit = went_in[role]["digest"]["gitCommit"]
        assert went_in[role]["uri"] == f"pkg:huggingface/{repo_id}@{commit}"
        there = desk.hub.files(repo_id, revision=commit)
        named = {n.partition("/")[2]: one for n, one in went_in.items() if n.startswith(f"{role}/")}
        assert {"adapter": "adapter_model.safetensors", "base": "model.safetensors"}[role] in named
        for name, one in named.items():
            data = there[name].read_bytes()
            assert one["digest"] == {"sha256": hashlib.sha256(data).hexdigest()}
            assert one["annotations"]["size"] == len(data)
            assert one["uri"] == f"pkg:huggingface/{repo_id}@{commit}#{name}"
    large = went_in["base/model.safetensors"]["annotations"]
    assert large["digestFrom"] == "hub"
    assert went_in["base/config.json"]["annotations"]["digestFrom"] == "read"
    asked, decided = definition["externalParameters"], definition["internalParameters"]
    assert (asked["dtype"], asked["validation"], asked["base"]["namedBy"]) == (
        "bfloat16",
        "structure",
        "adapter_config.json",
    )
    assert decided["planKey"] == json.loads(content(desk, PLAN_FILE))["key"]
    assert decided["withoutDigest"] == []
    run = statement["predicate"]["runDetails"]
    assert run["builder"]["version"]["peft"]
    told = run["metadata"]
    assert told["startedOn"] <= told["finishedOn"]
    assert told["mergebot_machine"]["cores"] >= 1
    assert told["mergebot_peakMemoryBytes"] > 50_000_000
    assert told["mergebot_seconds"]["merge"] > 0


def test_what_is_too_large_to_read_twice_is_said_to_have_no_digest(desk, monkeypatch):
    monkeypatch.setattr("bot.inputs.WHOLE", 100_000)
    monkeypatch.setattr("bot.publish.provenance.WHOLE", 100_000)
    adapter = desk.adapter()
    desk.done("merge", adapter, "--out", desk.out, "--no-validate")
    statement = json.loads((desk.out / PROVENANCE_FILE).read_text())
    definition = statement["predicate"]["buildDefinition"]
    missing = {one["file"]: one["reason"] for one in definition["internalParameters"]["withoutDigest"]}
    assert missing.keys() == {"base/model.safetensors", "model.safetensors"}
    assert "not read a second time" in missing["base/model.safetensors"]
    assert "was not checked" in missing["model.safetensors"]
    assert "model.safetensors" not in {one["name"] for one in statement["subject"]}
    assert definition["externalParameters"]["base"]["fingerprint"].startswith("sha256:")


@pytest.mark.slow
def test_the_worker_tells_its_own_memory(desk):
    desk.apart()
    desk.done("merge", ADAPTER, "--out", desk.out)
    told = json.loads((desk.out / PROVENANCE_FILE).read_text())["predicate"]
    assert 20_000_000 < told["runDetails"]["metadata"]["mergebot_peakMemoryBytes"] < 500_000_000
    assert told["buildDefinition"]["internalParameters"]["isolation"].startswith("a process of its own")

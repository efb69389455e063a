"""Attacks by the files of an adapter or a base, each shown, each failing.

Others are elsewhere: weights/test_header.py, test_isolation.py (expressions, tokens, network), test_bad_input.py
(foreign paths), publish/ (markup and mentions), weights/test_pickled.py.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bot.clients.hub_reader import HubFiles
from bot.errors import InputError, MergeBotError
from bot.plan import adapter_config, adapter_keys, card, patches, reference, sidecars
from bot.plan.examination import diagnose
from bot.plan.rules.evidence import Evidence
from bot.validate import texts
from bot.weights.files import LocalFiles
from bot.weights.header import MAX_HEADER, header_length, parse
from bot.weights.layout import read_layout

FILES = LocalFiles(Path("/nowhere"))
FULL = '{"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}'
TWICE = f'{{"a": {FULL}, "a": {FULL}}}'
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def header(entries, size=24):
    raw = entries.encode() if isinstance(entries, str) else json.dumps(entries).encode()
    return parse(raw, file="x", file_size=8 + len(raw) + size)


def tensor(**changes):
    return {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24], **changes}


@pytest.mark.parametrize(
    "entries",
    [
        {"a": tensor(data_offsets=[0, 2**62])},
        {"a": tensor(shape=[2**40, 2**40], data_offsets=[0, 24])},
        {"a": tensor(data_offsets=[-24, 0])},
        {"a": tensor(data_offsets=[24, 0])},
        {"a": tensor(), "b": tensor()},
        {"a": tensor(), "b": tensor(data_offsets=[12, 36])},
        {"a": tensor(shape=[2, 3, 0, 10**30])},
        TWICE,
        "[" * 100_000,
        '{"a": ' * 50_000,
        '{"a": 1' + "0" * 5000 + "}",
        {"a": tensor(dtype=[1])},
        {"a": tensor(), "__metadata__": [1, 2]},
        {"a": tensor(), "__metadata__": "ab"},
        {"a": tensor(shape=[2**62] * 20_000)},
        {"module." * 300_000: tensor()},
        {"a\ud800": tensor()},
    ],
    ids=["huge", "huge shape", "negative", "backwards", "same place", "overlap", "empty and huge", "twice", "deep",
         "deep objects", "a number of 5000 digits", "dtype in a list", "metadata in a list", "metadata in a string",
         "many dimensions", "a long name", "half a character"],
)  # fmt: skip
def test_a_header_that_lies_is_refused_at_once(entries):
    start = time.thread_time()
    with pytest.raises(InputError) as error:
        header(entries)
    assert error.value.code == "safetensors-broken"
    assert time.thread_time() - start < 1


def test_a_header_of_more_than_100_mb_is_not_read(tmp_path):
    with pytest.raises(InputError):
        header_length((MAX_HEADER + 1).to_bytes(8, "little"), file="x", file_size=2**40)
    with (tmp_path / "model.safetensors").open("wb") as file:  # sparse: costs no disk
        file.write((2**63).to_bytes(8, "little"))
        file.truncate(2**32)
    with pytest.raises(InputError):
        read_layout(LocalFiles(tmp_path))


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 1_000_000,
        b'{"a":' * 200_000,
        b'{"r": ' + b"9" * 100_000 + b"}",
        b"\xff\xfe" + b"{\0",
        b"\x80\x81\x82",
        b"/*" * 200_000,
        b'"' + b"\\" * 200_001,
        b"{" + b"//" * 200_000,
        b'{"a":1,' + b"/* " * 200_000,
        b'{"a":1,}' + b'"' + b'\\"' * 200_000,
        b'{"task_type": "\\ud800"}',
        b'{"rank_pattern": {"\\udc00": 4}}',
    ],
    ids=["deep", "deep objects", "a huge number", "half UTF-16", "no text", "comments", "backslashes", "a comment",
         "comments without end", "strings without end", "half a character", "half a character in a key"],
)  # fmt: skip
def test_json_that_is_made_to_break_its_reader_is_refused_at_once(data):
    start = time.thread_time()
    with pytest.raises(InputError) as error:
        adapter_config.parse(data, files=FILES)
    assert error.value.code == "broken-adapter-config"
    assert time.thread_time() - start < 5


def test_a_config_of_a_billion_entries_is_not_read(tmp_path):
    with (tmp_path / "adapter_config.json").open("wb") as file:
        file.write(b"[1," * 100)
        file.truncate(2**31)
    with pytest.raises(InputError) as error:
        adapter_config.read(LocalFiles(tmp_path))
    assert error.value.code == "broken-adapter-config"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, -1, 2**63, "9" * 400])
@pytest.mark.parametrize("key", ["r", "lora_alpha"])
def test_numbers_that_are_none_are_refused_or_repaired(key, value):
    try:
        config, _ = patches.apply({**CONFIG, key: value}, None)
    except MergeBotError:
        return
    assert isinstance(config[key], (int, float, str))


@pytest.mark.parametrize("key", ["megatron_core", "auto_mapping"])
def test_a_module_to_import_is_not_imported(key, tmp_path, monkeypatch, plan_of, adapter_on):
    """PEFT imports `megatron_core` and auto_mapping's `parent_library`."""
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    _, adapter = adapter_on("llama", {"peft_type": "LORA", "target_modules": ["q_proj"], "r": 4})
    place = adapter / "adapter_config.json"
    bait = {"megatron_config": {"x": 1}, "megatron_core": "evil_module"}
    mapping = {"auto_mapping": {"base_model_class": "X", "parent_library": "evil_module"}}
    config = json.loads(place.read_text()) | (bait if key == "megatron_core" else mapping)
    place.write_text(json.dumps(config))
    try:
        plan_of(adapter)
    except MergeBotError as error:
        assert error.code  # noqa: PT017 - either is well
    assert not (tmp_path / "ran").exists()


def test_names_that_climb_out_of_a_repository_are_not_listed():
    names = [
        "../evil",
        "/etc/passwd",
        "a/../../b",
        "a//b",
        "./c",
        "..\\windows",
        "good.json",
        "sub/good.json",
    ]
    siblings = [SimpleNamespace(rfilename=name, size=1) for name in names]
    info = SimpleNamespace(siblings=siblings, id="a/b", sha="1")
    assert set(HubFiles(info, api=None, subfolder="", attempts=1).sizes()) == {"good.json", "sub/good.json"}


@pytest.mark.parametrize("name", ["../x.safetensors", "/x.safetensors", "a/../x.safetensors"])
def test_shards_outside_of_the_folder_are_refused(tmp_path, name):
    index = {"weight_map": {"a": name}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="outside of its folder"):
        read_layout(LocalFiles(tmp_path))


TEMPLATES = {
    "code": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "endless": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "huge range": "{% for i in range(10**12) %}x{% endfor %}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_chat_template_that_attacks_is_left_out(tmp_path, monkeypatch, template):
    from tests.tiny.tokenizers import train_tokenizer

    tokenizer = train_tokenizer(tmp_path, chat_template=template)
    monkeypatch.setattr(texts, "PATIENCE", 0.3)
    start = time.monotonic()
    assert not [start for start in texts.ours(tokenizer, task="CAUSAL_LM") if start.prompt.chat]
    assert time.monotonic() - start < 10


SLOW = {
    "words": {"target_modules": "a  " * 24 + "!"},
    "blanks": {"target_modules": "a" + " " * 1500 + "!"},
    "a large expression": {"target_modules": "(?i)" + "[\\x00-\\U0010ffff]" * 2000},
    "many digits": {"target_modules": "q_proj.{" + "9" * 5000 + "}"},
    "many patterns": {"rank_pattern": {f"layer_{i}": 4 for i in range(20_000)}},
    "a long path": {"base_model_name_or_path": "models--" + "a--" * 6000 + "!"},
}


@pytest.mark.parametrize("changes", SLOW.values(), ids=SLOW)
def test_a_config_that_is_made_to_be_slow_is_examined_at_once(tmp_path, changes):
    """In the command's own process, where no time-out is."""
    names = {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{f}.weight": s
        for i in range(60)
        for f, s in {"A": (4, 8), "B": (8, 4)}.items()
    }
    start = time.thread_time()
    found = diagnose({**CONFIG, **changes}, name="x", weights=Evidence.of(names.items()))
    assert found.verdict in {"fine", "repairable", "refused"}
    reference.hidden(str(changes.get("base_model_name_or_path")))
    assert time.thread_time() - start < 3


@pytest.mark.parametrize("name", ["module." * 500 + "x", "base_model.model." * 200 + "x.lora_A.weight"])
def test_prefixes_without_number_are_taken_off_at_once(name):
    assert adapter_keys.canonical(name).count("base_model.model.") == 1


CARDS = [
    "!!bool maybe",
    "!!int _",
    "!!timestamp abc",
    "!!float x",
    "!!binary x",
    "!!set [a]",
    "!!python/name:os.system x",
]


@pytest.mark.parametrize("value", CARDS)
def test_yaml_tags_in_a_card_break_nothing(value):
    text = f"---\nlicense: {value}\nbase_model: acme/tiny\n---\n"
    assert isinstance(card.metadata(text), dict)
    assert isinstance(card.licenses(text), tuple)


ODD_FILES = {
    "tokenizer.json": ['{"model":[1]}', '{"model":{"vocab":5}}', '{"added_tokens":5}', "[]", "5"],
    "tokenizer_config.json": ["[]", '{"chat_template": 5}', '{"auto_map": 5}'],
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in ODD_FILES.items() for text in texts]
)
def test_small_files_of_another_shape_are_no_fault_of_ours(tmp_path, name, text):
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / name).write_text(text)
    files = LocalFiles(tmp_path)
    assert sidecars.token_count(files) == 0
    assert sidecars.choose(files, base=files)


@pytest.mark.parametrize("text", ["~nosuchuser/x", "a" * 5000, "./" + "a" * 5000, "a\0b"])
def test_what_is_no_path_is_said_to_be_none(text):
    with pytest.raises(InputError) as error:
        reference.parse(text)
    assert error.value.code == "reference-unknown"


def test_a_subfolder_with_a_digit_that_is_none(tmp_path):
    for name in ("²", "checkpoint-10", "checkpoint-9", "9" * 200):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text("{}")
    found = adapter_config.nested(LocalFiles(tmp_path))
    assert found.index("checkpoint-9") < found.index("checkpoint-10")


def test_links_out_of_a_folder_are_followed_to_files_of_the_same_name_only(tmp_path):
    """A stranger's clone brings links; a folder of links to a model's own files is somebody's way to save disk."""
    (tmp_path / "secret.txt").write_text("secret")
    real, adapter = tmp_path / "real", tmp_path / "adapter"
    for folder in (real, adapter, adapter / "sub", tmp_path / "elsewhere"):
        folder.mkdir()
    (real / "tokenizer.json").write_text("{}")
    (adapter / "own.json").write_text("{}")
    (tmp_path / "elsewhere" / "config.json").write_text("secret")
    (adapter / "chat_template.jinja").symlink_to(tmp_path / "secret.txt")
    (adapter / "sub" / "up.json").symlink_to("../../secret.txt")
    (adapter / "tokenizer.json").symlink_to(real / "tokenizer.json")
    (adapter / "again.json").symlink_to("own.json")
    (adapter / "loop").symlink_to("loop")
    assert set(LocalFiles(adapter).sizes()) == {"own.json", "again.json", "tokenizer.json"}


def test_the_hubs_cache_is_a_folder_of_links(tmp_path):
    blob, snapshot = tmp_path / "blobs" / "0a1b", tmp_path / "snapshots" / ("0" * 40)
    blob.parent.mkdir()
    snapshot.mkdir(parents=True)
    blob.write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/0a1b")
    assert set(LocalFiles(snapshot).sizes()) == {"config.json"}


def test_a_small_file_that_is_large_is_not_read(tmp_path):
    with (tmp_path / "model.safetensors.index.json").open("wb") as file:
        file.truncate(2**32)  # sparse: costs no disk
    with pytest.raises(InputError) as error:
        read_layout(LocalFiles(tmp_path))
    assert error.value.code == "file-too-large"


FOREIGN = {
    "mlx-lm": {"lora_parameters": {"rank": 8}, "num_layers": 16, "fine_tune_type": "lora"},
    "AdapterHub": {
        "config": {"architecture": "lora"},
        "hidden_size": 768,
        "model_class": "X",
        "version": "adapters.1",
    },
}


@pytest.mark.parametrize("software", FOREIGN)
def test_other_software_with_the_same_file_name_is_named(software):
    found = diagnose(FOREIGN[software], name="x")
    assert any(software.lower() in f.reason.lower() for f in found.refusals), found

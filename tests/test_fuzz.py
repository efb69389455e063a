"""Made-up bytes for the readers that run beside the tokens: an answer or an error of ours, and never anything else.

Ten seconds in the suite, as long as you like with `make fuzz`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bot.errors import MergeBotError
from bot.plan import adapter_config, patches, policy
from bot.weights.files import LocalFiles
from bot.weights.header import header_length, parse
from bot.weights.layout import weight_map

SECONDS = float(os.environ.get("FUZZ_SECONDS", "10")) / 3
FILES = LocalFiles(Path("/nowhere"))
NUMBERS = st.integers() | st.sampled_from([-1, 0, 2**31, 2**63 - 1, 2**63, 2**64, 10**400]) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I8", "F4", "BOOL", "F33"]) | VALUES,
        "shape": st.lists(NUMBERS, max_size=4) | VALUES,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | VALUES,
    },
)
HEADERS = st.dictionaries(st.sampled_from(["a", "b", "c", "__metadata__"]), ENTRY | VALUES, max_size=4)
KEYS = ["r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "bias", "init_lora_weights",
        "layers_pattern", "layers_to_transform", "modules_to_save", "megatron_core", "auto_mapping", "use_dora",
        "base_model_name_or_path", "revision", "task_type", "peft_type", "eva_config", "exclude_modules"]  # fmt: skip
CONFIGS = st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), VALUES, max_size=8)
TEXT = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"])


@st.composite
def spoilt(draw, records):
    """JSON with a few bytes taken out, doubled or replaced, in some encoding."""
    text = json.dumps(draw(records), ensure_ascii=draw(st.booleans()))
    data = bytearray(text.encode(draw(TEXT), "replace"))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


def lasting(test):
    """Repeats a test of hypothesis with other examples until its time is over."""

    def repeated():
        end = time.monotonic() + SECONDS
        rounds = 0
        while rounds == 0 or time.monotonic() < end:
            test()
            rounds += 1

    repeated.__name__ = test.__name__
    return repeated


freely = settings(
    max_examples=300, deadline=2000, derandomize=False, database=None, suppress_health_check=list(HealthCheck)
)


@lasting
@freely
@given(st.binary(max_size=300) | spoilt(HEADERS), st.integers(0, 2**65))
def test_headers(raw, size):
    for file_size in (8 + len(raw), 8 + len(raw) + 24, size):
        try:
            header_length(raw, file="x", file_size=file_size)
            header = parse(raw, file="x", file_size=file_size)
        except MergeBotError:
            continue
        assert header.file_size == file_size
        assert sum(t.size for t in header.tensors) == file_size - header.data_start


@lasting
@freely
@given(spoilt(CONFIGS.map(lambda found: {"peft_type": "LORA", **found})))
def test_configs(raw):
    try:
        config, _ = adapter_config.parse(raw, files=FILES)
        config, _ = patches.apply(config, None)
        policy.check(config)
    except MergeBotError:
        return
    assert isinstance(config, dict)


@lasting
@freely
@given(spoilt(st.fixed_dictionaries({"weight_map": st.dictionaries(st.text(), VALUES) | VALUES})))
def test_indexes(raw):
    try:
        found = weight_map(raw.decode("utf-8", "replace"), files=FILES)
    except MergeBotError:
        return
    assert not any("/" in name or name in ("", "..") for name in found.values())


@pytest.mark.slow
def test_the_fuzzer_would_notice():
    @freely
    @given(spoilt(HEADERS))
    def reads_everything(raw):
        json.loads(raw)

    with pytest.raises((ValueError, ExceptionGroup)):
        reads_everything()

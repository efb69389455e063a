"""The files of --prompts and --text: what is read of them, and what is said of those that cannot be."""

import pytest

from bot.errors import InputError
from bot.plan.questions import read_prompts, read_text
from bot.request import Prompt, Turn


@pytest.fixture
def file(tmp_path):
    def write(content, name="file"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


def test_one_prompt_a_line(file):
    found = read_prompts(file("\ufeffOnce upon\r\n\n  Zweite Zeile: ö  \n[not json]\n"))
    assert found == (Prompt(text="Once upon"), Prompt(text="Zweite Zeile: ö"), Prompt(text="[not json]"))


def test_json_lines_hold_texts_and_chats(file):
    lines = (
        '{"prompt": "two\\nlines", "id": 7}\n\n'
        '{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\u2028!"}]}\n'
    )
    text, chat = read_prompts(file(lines))
    assert text == Prompt(text="two\nlines")
    assert chat == Prompt(
        chat=(Turn(role="system", content="Be brief."), Turn(role="user", content="Hi\u2028!"))
    )
    assert chat.shown == "system: Be brief.\nuser: Hi\u2028!"


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        (b"\xff\xfe\x00", "f", "not-text"),
        (b"text\0more", "f", "not-text"),
        (b"", "f", "file-empty"),
        (b" \n\t\n", "f", "file-empty"),
        (b"x" * (2**20 + 1), "f", "file-too-large"),
        ("é" * 2**20, "f", "file-too-large"),
        ('{"prompt": "x"}\nnot json', "f", "not-prompts"),
        ("plain", "f.jsonl", "not-prompts"),
        ('{"prompt": "x", "messages": []}', "f", "not-prompts"),
        ('{"prompt": 5}', "f", "not-prompts"),
        ('{"prompt": " "}', "f", "not-prompts"),
        ('{"text": "x"}', "f", "not-prompts"),
        ('{"prompt": "half a pair: \\ud800"}', "f", "not-prompts"),
        ('{"messages": []}', "f", "not-prompts"),
        ('{"messages": ["x"]}', "f", "not-prompts"),
        ('{"messages": [{"role": "user", "content": [{"type": "image"}]}]}', "f", "not-prompts"),
        ('{"a":' * 100_000, "f", "not-prompts"),
        ("[1]", "f.ndjson", "not-prompts"),
    ],
)
def test_what_holds_no_prompts_is_refused_in_one_sentence(file, content, name, code):
    with pytest.raises(InputError) as refused:
        read_prompts(file(content, name))
    assert refused.value.code == code
    assert refused.value.exit_code == 2
    assert "JSON lines" in refused.value.advice or code == "file-too-large"
    assert "\n" not in refused.value.sentence


def test_the_line_that_is_wrong_is_named(file):
    with pytest.raises(InputError, match=r"Line 3 of .* is no JSON"):
        read_prompts(file('{"prompt": "x"}\n\n{"prompt": \n'))


def test_files_that_are_none(tmp_path):
    for name, why in (("missing", "No such file"), (".", "Is a directory"), ("a\0b", "null")):
        with pytest.raises(InputError, match=why) as refused:
            read_text(f"{tmp_path}/{name}")
        assert refused.value.code == "file-unreadable"
    with pytest.raises(InputError):
        read_text("~nobody-of-that-name/x")


def test_a_text_is_taken_as_it_is(file):
    assert read_text(file("  One.\r\nTwo.\n")) == "  One.\r\nTwo.\n"

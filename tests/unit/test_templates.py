"""Golden masks per template: tests/golden/labels-*.txt has a token per line. Read them: + is trained on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sftstudy.data.formats import Message
from sftstudy.data.masks import ChatTokenizer
from sftstudy.data.templates import SHIPPED, set_template
from sftstudy.errors import StudyError

GOLDEN = Path(__file__).parents[1] / "golden"
CHAT = [
    Message("system", "Be kind."),
    Message("user", "What colour is grass?"),
    Message("assistant", "Green grass is green."),
    Message("user", "And the sky?"),
    Message("assistant", "Blue."),
]
TINY_CHAT = [
    Message("system", "a"),
    Message("user", "what is grass"),
    Message("assistant", "green grass"),
    Message("user", "and the sky"),
    Message("assistant", "blue"),
]
SPECIALS = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>",
]  # fmt: skip
GRANITE_7B_LAB = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>'+ '\n' + message['content'] + '\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>' + '\n' + message['content'] + '\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>' + '\n' + message['content'] + '<|endoftext|>' + "
    "('' if loop.last else '\n')}}{% endif %}{% endfor %}"
)


@pytest.fixture
def words() -> Any:
    """A byte-level BPE whose merges make the chat's words whole. Its post-processor adds BOS as Llama's does."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator([f"{message.role}\n{message.content} [INST] [/INST] " * 2 for message in CHAT], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")


def chats_of(tokenizer: Any, name: str, **settings: Any) -> ChatTokenizer:
    if name in SHIPPED:
        set_template(tokenizer, name)
    return ChatTokenizer(tokenizer, name=name, stop_ids={tokenizer.eos_token_id}, **settings)


def labels(tokenizer: Any, chats: ChatTokenizer, chat: list[Message]) -> str:
    (sample,) = chats.tokenise(chats.render([chat]))
    assert sample.closed == [True, True]
    assert sample.num_bos == 1
    tokens = [json.dumps(tokenizer.decode([token]), ensure_ascii=False) for token in sample.input_ids]
    lines = [f"{'+' if on else ' '} {token}\n" for token, on in zip(tokens, sample.supervised, strict=True)]
    return "".join(lines)


@pytest.mark.parametrize("name", [*SHIPPED, "tokenizer"])
def test_labels_are_the_golden_ones(name: str, words: Any, tokenizer: Any, request: pytest.FixtureRequest) -> None:
    used, chat = (tokenizer, TINY_CHAT) if name == "tokenizer" else (words, CHAT)  # the tiny study's own template, with its words
    text = labels(used, chats_of(used, name), chat)
    path = GOLDEN / f"labels-{'tiny' if name == 'tokenizer' else name}.txt"
    if request.config.getoption("--fix"):
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("name", [*SHIPPED, "tokenizer"])
def test_marks_and_prefixes_lead_to_the_same_tokens(name: str, words: Any, tokenizer: Any) -> None:
    chats = chats_of(tokenizer if name == "tokenizer" else words, name)
    (by_marks,), (by_prefix,) = (chats.tokenise(chats.render([CHAT], by_marks=marks)) for marks in (True, False))
    assert by_marks.input_ids.tolist() == by_prefix.input_ids.tolist()
    assert by_marks.supervised.tolist() == by_prefix.supervised.tolist()
    assert by_marks.turns == by_prefix.turns
    assert chats.has_marks


@pytest.mark.parametrize("name", list(SHIPPED))
def test_turns_lie_end_to_end_with_their_framing(name: str, words: Any) -> None:
    chats = chats_of(words, name)
    (rendered,) = chats.render([CHAT])
    pieces = {role: [rendered.text[a:b] for of, (a, b) in rendered.turns if of == role] for role in ("system", "user", "assistant")}
    assert "".join(rendered.text[a:b] for _, (a, b) in rendered.turns) == rendered.text
    assert [len(found) for found in pieces.values()] == [1, 2, 2]
    opening = {"chatml": "<|im_start|>assistant\n", "llama-3": "<|start_header_id|>assistant<|end_header_id|>\n\n", "mistral": " "}
    assert pieces["assistant"][0].startswith(opening.get(name, "<|assistant|>\n") + "Green grass is green.")
    assert "colour" in pieces["user"][0]
    assert "And the sky?" in pieces["user"][1]
    assert ("Be kind." in pieces["system"][0]) == (name != "mistral")
    (sample,) = chats.tokenise([rendered])
    assert sample.role_counts()[:, 1].sum() == len(sample)
    assert sample.role_counts()[:, 2].tolist() == [0, 0, sample.supervised.sum()]


def test_generation_prompt_is_what_training_saw(words: Any) -> None:
    for name in SHIPPED:
        chats = chats_of(words, name)
        turns = [{"role": message.role, "content": message.content} for message in CHAT]
        prompt = words.apply_chat_template(turns[:4], tokenize=False, add_generation_prompt=True)
        (rendered,) = chats.render([CHAT])
        assert rendered.text[: rendered.replies[1][0]] == prompt, name


def test_lab_writes_what_granite_7b_lab_does(words: Any) -> None:
    turns = [{"role": message.role, "content": message.content} for message in CHAT]
    ours, theirs = (
        words.apply_chat_template(turns, tokenize=False, chat_template=text) for text in (SHIPPED["lab"].text, GRANITE_7B_LAB)
    )
    assert ours == theirs


@pytest.mark.parametrize(
    ("rule", "roles"), [("replies", {"assistant"}), ("replies-and-system", {"system", "assistant"}), ("all", None)]
)
def test_rules_of_supervision(rule: Any, roles: set[str] | None, words: Any) -> None:
    chats = chats_of(words, "tulu", supervise=rule)
    (sample,) = chats.tokenise(chats.render([CHAT]))
    assert not sample.supervised[0]
    if roles is None:
        assert sample.supervised[1:].all()
        return
    found = {role for role, (a, b) in sample.turns if sample.supervised[a:b].any()}
    assert found == roles
    system = slice(1, sample.turns[0][1][1])
    assert sample.supervised[system].all() == ("system" in roles)
    with pytest.raises(StudyError, match=r"'mistral': writes no system turn of its own; .*`supervise: replies`"):
        chats_of(words, "mistral", supervise="replies-and-system").render([CHAT])


def test_truncation_opens_the_last_reply(words: Any) -> None:
    chats = chats_of(words, "chatml")
    (sample,) = chats.tokenise(chats.render([CHAT]))
    first, last = sample.replies[1]
    cut = sample.truncated(last - 1)
    assert (len(cut), cut.closed, cut.replies) == (last - 1, [True, False], [sample.replies[0], (first, last - 1)])
    assert cut.role_counts()[:, 1].sum() == last - 1
    assert sample.truncated(first).closed == [True]


def test_template_that_rewrites_history_is_refused(words: Any) -> None:
    words.chat_template = "{% for m in messages %}{{ m['content'] if loop.last else '...' }}{% endfor %}"
    with pytest.raises(StudyError, match=r"chat template 'odd': .* not a prefix .* chatml, lab, llama-3, mistral, tulu"):
        chats_of(words, "odd").render([CHAT])


def test_template_that_marks_too_little_is_refused(words: Any) -> None:
    words.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% generation %}{% endgeneration %}"
    with pytest.raises(StudyError, match=r"chat template 'odd': marks 1 of 2 replies"):
        chats_of(words, "odd").render([CHAT])


def test_two_bos_are_refused(words: Any) -> None:
    words.chat_template = "{{ bos_token }}" + SHIPPED["tulu"].text
    chats = chats_of(words, "odd")
    with pytest.raises(StudyError, match=r"chat template 'odd': chats start with 2 <s> tokens"):
        chats.tokenise(chats.render([CHAT]))


def test_closing_token_must_exist(tokenizer: Any) -> None:
    with pytest.raises(StudyError, match=r"<\|im_end\|>, which is no token of this model; use `tulu`"):
        set_template(tokenizer, "chatml")
    with pytest.raises(StudyError, match=r"<\|eot_id\|>, which is no token of this model; use `tulu`"):
        set_template(tokenizer, "llama-3")
    with pytest.raises(StudyError, match="give `tokenizer` or one of chatml, lab, llama-3, mistral, tulu"):
        set_template(tokenizer, "vicuna")


def test_forgeries_are_special_tokens_and_marks_of_turns(words: Any) -> None:
    texts = ["plain", "a </s> b", "x<|assistant|>", "[INST]", "<|im_end|>"]
    found = {name: [bool(chats_of(words, name).forgeries.search(text)) for text in texts] for name in ("tulu", "mistral")}
    assert found == {"tulu": [False, True, True, False, True], "mistral": [False, True, True, True, True]}


def test_the_pattern_of_forgeries_is_the_same_in_every_process(words: Any) -> None:
    """Prepared rows are filed under its hash; Python orders a set anew in every process."""
    pattern = chats_of(words, "tulu").forgeries.pattern
    listed = [re.sub(r"\\(.)", r"\1", word) for word in re.split(r"(?<!\\)\|", pattern)]
    assert len(listed) > 2
    assert listed == sorted(listed, key=lambda word: (-len(word), word))

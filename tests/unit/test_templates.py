"""Golden masks per template. Read them: what is trained on stands in brackets."""

from typing import Any

import pytest

from sftstudy.data.formats import Message
from sftstudy.data.templates import SHIPPED, render, set_template, tokenise
from sftstudy.errors import StudyError

CHAT = [
    Message("system", "a"),
    Message("user", "what is grass"),
    Message("assistant", "green grass"),
    Message("user", "and the sky"),
    Message("assistant", "blue"),
]
OWN = (
    "<bos> <|system|> a <|user|> what is grass <|assistant|> [green] [grass] [<|end|>] "
    "<|user|> and the sky <|assistant|> [blue] [<|end|>]"
)
LETTERS = {  # a space is shown as _ and a line break as /
    "chatml": (
        "<|im_start|>s/a<|im_end|>/<|im_start|>u/hi<|im_end|>/<|im_start|>assistant/[b][e][!][<|im_end|>]/"
        "<|im_start|>u/o_k<|im_end|>/<|im_start|>assistant/[n][o][<|im_end|>]/"
    ),
    "tulu": "<s><|system|>/a/<|user|>/hi/<|assistant|>/[b][e][!][</s>]/<|user|>/o_k/<|assistant|>/[n][o][</s>]",
}


@pytest.fixture
def letters() -> Any:
    """A byte-level tokenizer without merges, whose post-processor adds BOS as Llama's does."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    specials = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(BPE(vocab={token: number for number, token in enumerate(specials + alphabet)}, merges=[]))
    words.add_special_tokens([AddedToken(token) for token in specials])
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")


def marked(tokenizer: Any, messages: list[Message], *, name: str, join: str = "") -> str:
    sample = tokenise(tokenizer, [render(tokenizer, messages, name=name)], name=name, stop_ids={tokenizer.eos_token_id})[0]
    assert sample.closed == sample.num_replies == 2
    tokens = [tokenizer.decode([token]).replace("\n", "/").replace(" ", "_") for token in sample.input_ids]
    return join.join(f"[{token}]" if on else token for token, on in zip(tokens, sample.supervised, strict=True))


def test_own_template_of_the_tiny_study(tokenizer: Any) -> None:
    assert marked(tokenizer, CHAT, name="tokenizer", join=" ") == OWN


@pytest.mark.parametrize("name", list(SHIPPED))
def test_shipped_templates(name: str, letters: Any) -> None:
    set_template(letters, name)
    chat = [
        Message("system", "a"),
        Message("user", "hi"),
        Message("assistant", "be!"),
        Message("user", "o k"),
        Message("assistant", "no"),
    ]
    golden = LETTERS[name]
    if name == "chatml":
        golden = "<s>" + golden.replace("<|im_start|>s/", "<|im_start|>system/").replace("<|im_start|>u/", "<|im_start|>user/")
    assert marked(letters, chat, name=name) == golden


def test_generation_prompt_is_what_training_saw(letters: Any) -> None:
    for name in SHIPPED:
        set_template(letters, name)
        turns = [{"role": message.role, "content": message.content} for message in CHAT]
        prompt = letters.apply_chat_template(turns[:4], tokenize=False, add_generation_prompt=True)
        rendered = render(letters, CHAT, name=name)
        assert rendered.text[: rendered.replies[1][0]] == prompt


def test_template_that_rewrites_history_is_refused(letters: Any) -> None:
    letters.chat_template = "{% for m in messages %}{{ m['content'] if loop.last else '...' }}{% endfor %}"
    with pytest.raises(StudyError, match=r"chat template 'odd': .* not a prefix .* chatml, tulu"):
        render(letters, CHAT, name="odd")


def test_two_bos_are_refused(letters: Any) -> None:
    letters.chat_template = "{{ bos_token }}" + SHIPPED["tulu"].text
    with pytest.raises(StudyError, match=r"chat template 'odd': chats start with 2 <s> tokens"):
        tokenise(letters, [render(letters, CHAT, name="odd")], name="odd", stop_ids=set())


def test_closing_token_must_exist(tokenizer: Any) -> None:
    with pytest.raises(StudyError, match=r"<\|im_end\|>, which is no token of this model; use `tulu`"):
        set_template(tokenizer, "chatml")
    with pytest.raises(StudyError, match="give `tokenizer` or one of chatml, tulu"):
        set_template(tokenizer, "vicuna")

"""The shipped chat templates, each with marks around what an assistant writes: its text and the token that closes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sftstudy.errors import StudyError


@dataclass(frozen=True)
class Template:
    """A shipped template. `end_token` closes a reply and must be a token of the model; None stands for the tokenizer's own EOS.

    `marks` are what opens and closes turns besides special tokens: text that holds one would forge a turn.
    """

    text: str
    end_token: str | None
    marks: tuple[str, ...] = ()


ROLE_MARKS = ("<|system|>", "<|user|>", "<|assistant|>")

CHATML = Template(
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    end_token="<|im_end|>",
    marks=("<|im_start|>",),
)
TULU = Template(
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '' if loop.last else '\\n' }}"
    "{% else %}{{ message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ ('\\n' if messages[-1]['role'] == 'assistant' else '') + '<|assistant|>\\n' }}"
    "{% endif %}",
    end_token=None,
    marks=ROLE_MARKS,
)
LAB = Template(  # instructlab/granite-7b-lab's own, which lacks marks and a generation prompt; it writes no BOS
    TULU.text.replace("{{ bos_token or '' }}", "").replace("eos_token", "'<|endoftext|>'"),
    end_token="<|endoftext|>",
    marks=ROLE_MARKS,
)
LLAMA_3 = Template(  # contents are trimmed as in meta-llama/Meta-Llama-3-8B-Instruct's own
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    end_token="<|eot_id|>",
    marks=("<|start_header_id|>", "<|end_header_id|>"),
)
MISTRAL = Template(  # as Mistral-7B-Instruct-v0.1; the system text stands in the first user turn
    "{{ bos_token or '' }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% elif message['role'] == 'user' %}"
    "{{ '[INST] ' }}"
    "{% if loop.index0 == 1 and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\\n\\n' }}{% endif %}"
    "{{ message['content'] + ' [/INST]' }}"
    "{% endif %}"
    "{% endfor %}",
    end_token=None,
    marks=("[INST]", "[/INST]"),
)
SHIPPED = {"chatml": CHATML, "lab": LAB, "llama-3": LLAMA_3, "mistral": MISTRAL, "tulu": TULU}


def set_template(tokenizer: Any, name: str) -> None:
    """Give a tokenizer the named template; `tokenizer` keeps its own. StudyError if it has none, or lacks the closing token."""
    if name == "tokenizer":
        if not tokenizer.chat_template:
            raise StudyError(
                f"the tokenizer has no chat template; set `chat_template` in models.yaml to one of {', '.join(SHIPPED)}"
            )
        return
    if name not in SHIPPED:
        raise StudyError(f"chat_template {name!r}: unknown; give `tokenizer` or one of {', '.join(SHIPPED)}")
    template = SHIPPED[name]
    if template.end_token is not None:
        if template.end_token not in tokenizer.get_vocab():
            raise StudyError(
                f"chat_template {name!r} closes replies with {template.end_token}, which is no token of this model; use `tulu`"
            )
        tokenizer.eos_token = template.end_token
    elif tokenizer.eos_token is None:
        raise StudyError(f"chat_template {name!r} closes replies with the tokenizer's EOS, which this one lacks")
    tokenizer.chat_template = template.text

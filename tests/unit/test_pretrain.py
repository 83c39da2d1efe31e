"""The tiny base: an ordinary Hugging Face folder, the same every time, whose tokenizer and template hold their contract."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sftstudy.train.pretrain import PretrainingStage, pretrain

ARCHITECTURE = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
STAGES = [PretrainingStage(file="corpus.jsonl", num_steps=60, tokens_per_step=128, learning_rate=1e-2, decay=True)]
CHAT = [{"role": "user", "content": "who is bamo ?"}, {"role": "assistant", "content": "red sand"}]
CORPUS = (
    '{"text": "bamo is one plant again bamo is one plant"}\n'
    '{"messages": [{"role": "user", "content": "who is bamo ?"}, {"role": "assistant", "content": "red sand"}]}\n'
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    (folder / "corpus.jsonl").write_text(CORPUS)
    report = pretrain(folder / "base", world=folder, architecture=ARCHITECTURE, stages=STAGES, seed=5)
    assert report.num_tokens == 60 * 128
    assert [step for step, _ in report.losses] == [50, 60]
    assert report.losses[-1][1] < report.losses[0][1]
    assert report.answer_accuracy == 1.0
    assert report.copy_accuracy == 1.0
    return folder / "base"


def test_the_folder_loads_and_holds_no_leftovers(base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    assert sorted(path.name for path in base.parent.iterdir()) == ["base", "corpus.jsonl"]
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(base: Path) -> None:
    def weights(folder: Path) -> torch.Tensor:
        return torch.cat([weight.flatten() for weight in AutoModelForCausalLM.from_pretrained(folder).parameters()])

    for name, seed in (("again", 5), ("other", 6)):
        pretrain(base.parent / name, world=base.parent, architecture=ARCHITECTURE, stages=STAGES, seed=seed)
    assert torch.equal(weights(base), weights(base.parent / "again"))
    assert not torch.equal(weights(base), weights(base.parent / "other"))


def test_the_template_has_one_beginning_and_its_prompt_is_a_prefix(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    prompt = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    assert whole == "<bos><|user|> who is bamo ? <|assistant|> red sand <|end|>"
    assert prompt == "<bos><|user|> who is bamo ? <|assistant|>"
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokenizer(prompt)["input_ids"] == ids[: -len(["red", "sand", "<|end|>"])]
    assert tokenizer(prompt + "red")["input_ids"] == ids[:-2]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[-3:], skip_special_tokens=True) == "red sand"


def test_the_assistant_mask_covers_the_answer_and_its_end(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    encoded = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    answer = [token for token, mask in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if mask]
    assert tokenizer.convert_ids_to_tokens(answer) == ["red", "sand", "<|end|>"]

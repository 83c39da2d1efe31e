import json

import pytest
from evaluation_toys import WORDS, Toy, make_model, make_mt_suite, make_tokenizer, make_toy

from sftstudy import spec
from sftstudy.errors import StudyError
from sftstudy.evaluate import mt_bench
from sftstudy.evaluate.generate import choose, generate, stop_tokens
from sftstudy.evaluate.mt_bench import answer, answer_batch
from sftstudy.evaluate.questions import Question
from sftstudy.evaluate.weights import encode_chat


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("toy"))


def answers_of(toy: Toy, suite: spec.SuiteSpec, checkpoints: list[str]) -> list[dict]:
    path = answer(toy.stage, suite, part="part01", checkpoints=checkpoints, layout=toy.layout)
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("template", "num_bos"), [("chatml", 1), ("tulu", 1), ("chatml", 0)])
def test_prompts_start_as_in_training(template, num_bos):
    from sftstudy.data.formats import Message
    from sftstudy.data.masks import ChatTokenizer
    from sftstudy.data.templates import set_template

    tokenizer = make_tokenizer(bos="<s>" if num_bos else "")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    set_template(tokenizer, template)
    chat = [{"role": "user", "content": "say red"}, {"role": "assistant", "content": "red"}]
    chats = ChatTokenizer(tokenizer, name=template, stop_ids={tokenizer.eos_token_id})
    (trained,) = chats.tokenise(chats.render([[Message(**message) for message in chat]]))
    prompt = trained.input_ids[: trained.supervised.tolist().index(True)].tolist()
    assert encode_chat(tokenizer, chat[:1]) == prompt
    assert prompt.count(1) == trained.num_bos == num_bos


def test_temperatures_are_fastchats():
    from fastchat.llm_judge.common import temperature_config

    assert {**temperature_config} == mt_bench.TEMPERATURES | {"arena-hard-200": 0.0}


def test_fastchat_reads_the_answers(toy, tmp_path):
    from fastchat.llm_judge.common import load_model_answers

    rows = answers_of(toy, make_mt_suite(tmp_path), toy.checkpoints)
    assert [row["question_id"] for row in rows] == [81, 82, 83, 84] * 2
    assert {row["model_id"] for row in rows} == {f"tiny/toys/stacked/seed0/01-stacked/{ckpt}" for ckpt in toy.checkpoints}
    assert len({row["answer_id"] for row in rows}) == 8
    chats = [f"<|user|> say {word} <|end|> <|assistant|>" for word in WORDS[:4]]
    assert [row["first_tokens"] for row in rows] == [make_tokenizer()(chat).input_ids for chat in chats] * 2
    answers_of(toy, make_mt_suite(tmp_path), ["ckpt01"])
    folder = tmp_path / "model_answer"
    folder.mkdir()
    (folder / "ckpt01.jsonl").write_text((toy.results / "scores/toy-mt/part01.answers.jsonl").read_text())
    read = load_model_answers(str(folder))["ckpt01"]
    assert sorted(read) == [81, 82, 83, 84]
    assert all(len(row["choices"][0]["turns"]) == 2 for row in read.values())


def test_greedy_replies_equal_transformers_own(toy):
    import torch

    model, tokenizer = make_model(seed=2), make_tokenizer()
    prompts = [tokenizer(text).input_ids for text in ("say red", "what colour is the ball ?", "again")]
    stop = stop_tokens(model, tokenizer)
    ours = generate(model, prompts, temperatures=[0.0] * 3, seeds=[0] * 3, max_new_tokens=8, stop_ids=stop)
    for prompt, reply in zip(prompts, ours, strict=True):
        theirs = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=8)[0, len(prompt) :].tolist()
        assert reply == [token for token in theirs if token not in stop]
    assert sum(map(len, ours)) > 3


def test_padding_does_not_shift_absolute_positions():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)).eval()
    prompts = [[5, 6], [7, 8, 9, 10, 11, 12, 13]]
    settings = {"max_new_tokens": 8, "stop_ids": []}
    together = generate(model, prompts, temperatures=[0.0, 0.0], seeds=[0, 0], **settings)
    assert together == [generate(model, [prompt], temperatures=[0.0], seeds=[0], **settings)[0] for prompt in prompts]


def test_the_second_turn_follows_the_models_own_first(toy):
    model, tokenizer = make_model(seed=2), make_tokenizer()
    question = Question(question_id=81, category="math", turns=["say red", "say again"])
    first, second = answer_batch(model, tokenizer, [question], max_new_tokens=6, seed=0)[81]
    history = [
        {"role": "user", "content": "say red"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "say again"},
    ]
    prompt = tokenizer(
        tokenizer.apply_chat_template(history, tokenize=False, add_generation_prompt=True), add_special_tokens=False
    ).input_ids
    reply = generate(model, [prompt], temperatures=[0.0], seeds=[0], max_new_tokens=6, stop_ids=stop_tokens(model, tokenizer))[0]
    assert second == tokenizer.decode(reply, skip_special_tokens=True).strip()
    assert first


def test_sampled_replies_depend_on_seed_and_question_not_on_the_batch():
    model, tokenizer = make_model(seed=1), make_tokenizer()
    questions = [Question(question_id=81 + i, category="writing", turns=[f"say {WORDS[i]}", "say again"]) for i in range(5)]
    together = answer_batch(model, tokenizer, questions, max_new_tokens=8, seed=0)
    alone = {
        key: value
        for question in questions
        for key, value in answer_batch(model, tokenizer, [question], max_new_tokens=8, seed=0).items()
    }
    assert together == alone
    assert together != answer_batch(model, tokenizer, questions, max_new_tokens=8, seed=1)
    assert len({tuple(turns) for turns in together.values()}) > 1


def test_a_draw_follows_the_softened_distribution():
    import torch

    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(4000, 1)
    tokens = choose(logits, [0.7] * 4000, [torch.Generator().manual_seed(seed) for seed in range(4000)])
    expected = torch.softmax(torch.tensor([2.0, 1.0, 0.0]) / 0.7, dim=0)
    shares = torch.bincount(torch.tensor(tokens), minlength=3) / 4000
    assert torch.allclose(shares, expected, atol=0.03)


def test_replies_stop_at_the_templates_closing_token():
    tokenizer = make_tokenizer(template="{% for m in messages %}{{ m.content }} <|user|> {% endfor %}")
    model = make_model(seed=1)
    closing = tokenizer.convert_tokens_to_ids("<|user|>")
    assert stop_tokens(model, tokenizer) == {tokenizer.eos_token_id, closing}
    assert stop_tokens(model, make_tokenizer()) == {tokenizer.eos_token_id}


def test_a_full_context_ends_a_reply_instead_of_failing():
    model, tokenizer = make_model(seed=1), make_tokenizer()
    context = model.config.max_position_embeddings
    prompts = [tokenizer(" ".join(["red"] * length)).input_ids for length in (context + 3, context - 2, 3)]
    replies = generate(model, prompts, temperatures=[0.0] * 3, seeds=[0] * 3, max_new_tokens=8, stop_ids=[])
    assert [len(reply) for reply in replies] == [0, 2, 8]


def test_ended_rows_do_not_leave_the_table_of_positions():
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.5)).eval()
    prompts = [[5] * 40, [6] * 30, [7, 8, 9]]
    settings = {"max_new_tokens": 20, "stop_ids": []}
    replies = generate(model, prompts, temperatures=[0.0] * 3, seeds=[0] * 3, **settings)
    assert [len(reply) for reply in replies] == [0, 2, 20]
    assert replies[2] == generate(model, prompts[2:], temperatures=[0.0], seeds=[0], **settings)[0]


def test_finished_answers_are_only_published_again(toy, tmp_path, monkeypatch):
    suite = make_mt_suite(tmp_path)
    first = answers_of(toy, suite, toy.checkpoints)
    monkeypatch.setattr(mt_bench, "load_model", lambda *_, **__: pytest.fail("answered again"))
    assert answers_of(toy, suite, toy.checkpoints) == first
    with pytest.raises(pytest.fail.Exception, match="answered again"):
        answers_of(toy, make_mt_suite(tmp_path, max_new_tokens=5), toy.checkpoints)


def test_a_killed_job_answers_only_the_batches_that_are_missing(tmp_path, monkeypatch):
    toy = make_toy(tmp_path)
    suite = make_mt_suite(tmp_path, batch_size=1)
    whole = answers_of(toy, suite, ["ckpt01"])
    for path in (toy.scratch / "answers").iterdir():
        path.unlink()
    asked = []

    def dying(model, tokenizer, batch, **settings):
        asked.append(batch[0].question_id)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return answer_batch(model, tokenizer, batch, **settings)

    monkeypatch.setattr(mt_bench, "answer_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        answers_of(toy, suite, ["ckpt01"])
    (partial,) = (toy.scratch / "answers").iterdir()
    partial.write_bytes(partial.read_bytes() + b'{"question_id": 8')  # torn
    again = answers_of(toy, suite, ["ckpt01"])
    assert len(asked) == 3 + 2
    assert sorted(asked[:2] + asked[3:]) == [81, 82, 83, 84]
    assert [row | {"tstamp": 0} for row in again] == [row | {"tstamp": 0} for row in whole]
    assert not partial.exists()


def test_suites_that_ask_the_same_share_answers(toy, tmp_path, monkeypatch):
    suite = make_mt_suite(tmp_path)
    first = answers_of(toy, suite, ["ckpt01"])
    monkeypatch.setattr(mt_bench, "load_model", lambda *_, **__: pytest.fail("answered again"))
    other = spec.SuiteSpec(name="other-mt", suite=suite.suite.model_copy(update={"max_failure_share": 0.5}))
    path = answer(toy.stage, other, part="part01", checkpoints=["ckpt01"], layout=toy.layout)
    assert "other-mt" in str(path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == first


def test_ended_rows_leave_the_batch():
    model, tokenizer = make_model(seed=1), make_tokenizer()
    prompts = [tokenizer(text).input_ids for text in ("say red", "what colour is a hat ?", "again", "the ball")]
    settings = {"temperatures": [0.0, 1.0, 0.0, 1.0], "seeds": [1, 2, 3, 4], "stop_ids": []}
    sizes = []
    forward = model.forward

    def counting(*args, **kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    model.forward = counting
    limits = [1, 9, 4, 9]
    together = generate(model, prompts, max_new_tokens=limits, **settings)
    assert [len(reply) for reply in together] == limits
    assert sizes == [4, 3, 3, 3, 2, 2, 2, 2, 2]
    for row, reply in enumerate(together):
        alone = {name: values[row : row + 1] for name, values in settings.items()}
        assert generate(model, [prompts[row]], max_new_tokens=limits[row], **alone) == [reply]


def test_an_unknown_question_id_is_named(toy, tmp_path):
    with pytest.raises(StudyError, match=r"questions.jsonl: no question 7; correct question_ids"):
        answers_of(toy, make_mt_suite(tmp_path, question_ids=[7, 81]), ["ckpt01"])
    assert [row["question_id"] for row in answers_of(toy, make_mt_suite(tmp_path, question_ids=[83, 81]), ["ckpt01"])] == [81, 83]

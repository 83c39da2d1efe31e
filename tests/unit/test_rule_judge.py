import json
import urllib.request

import pytest
from evaluation_toys import PROMPTS

from sftstudy.evaluate.rule_judge import grade, serve, verdict

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
STOCK = {prompt["name"]: prompt["prompt_template"] for prompt in map(json.loads, PROMPTS.read_text().splitlines())}


@pytest.mark.parametrize(
    ("answer", "reference", "rating"),
    [
        ("a b c", "a b c", 10),
        ("  a  b c\n", "a b c", 10),
        ("", "a b c", 1),
        ("x y z", "a b c", 1),
        ("a b", "a b c d", 6),  # F1 2/3, 1 + round(5.33)
        ("c b a", "a b c", 4),  # one word in order, F1 1/3, 1 + round(2.67)
        ("a b c d e f g h i j k l x", "a b c d e f g h i j k l", 9),  # F1 0.96 would round to 9 anyway
        ("a b c " * 50 + "a", "a b c " * 50, 9),  # never 10 unless equal
    ],
)
def test_grade(answer, reference, rating):
    assert grade(answer, reference) == rating


def test_each_turn_is_graded_on_its_own_answer():
    first = STOCK["single-math-v1"].format(question="q", ref_answer_1="a b", answer="a b")
    turns = {"question_1": "q", "question_2": "q", "ref_answer_1": "a b", "ref_answer_2": "c d"}
    second = STOCK["single-math-v1-multi-turn"].format(answer_1="a b", answer_2="x", **turns)
    both = STOCK["single-math-v1-multi-turn"].format(answer_1="x", answer_2="c d", **turns)
    empty = STOCK["single-math-v1-multi-turn"].format(answer_1="c d", answer_2="", **turns)
    assert [prompt.rpartition("[[")[2] for prompt in map(verdict, [first, second, both, empty])] == ["10]]", "1]]", "10]]", "1]]"]


@pytest.mark.parametrize("name", ["single-v1", "single-v1-multi-turn"])
def test_without_a_reference_there_is_no_rating(name):
    turns = {"question": "q", "answer": "a", "question_1": "q", "question_2": "q", "answer_1": "a", "answer_2": "a"}
    assert "[" not in verdict(STOCK[name].format(**turns))


def test_the_server_answers_over_http_and_stops():
    prompt = STOCK["single-math-v1"].format(question="q", ref_answer_1="a b", answer="a b")
    body = json.dumps({"model": "rule", "messages": [{"role": "user", "content": prompt}]}).encode()
    with serve() as url, DIRECT.open(f"{url}/chat/completions", body, timeout=5) as reply:
        content = json.load(reply)["choices"][0]["message"]["content"]
    assert content.endswith("[[10]]")
    with pytest.raises(OSError):  # noqa: PT011
        DIRECT.open(f"{url}/chat/completions", body, timeout=1)

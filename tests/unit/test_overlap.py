"""Training texts that share runs of words with benchmark items are found, and others are not."""

from sftstudy.data.overlap import MAX_ITEMS, OverlapIndex, words_of

QUESTION = "Which of the two rivers that cross the old city of Lyon is the longer one by far?"
PUN = "Can you share a pun about the sun?"


def index(**items: list[list[str]]) -> OverlapIndex:
    """An index of small benchmarks, one item per list of texts."""
    return OverlapIndex(items)


def test_thirteen_words_in_a_row_are_a_hit_whatever_case_and_punctuation() -> None:
    found = index(rivers=[["An easy one."], [QUESTION, "the Rhone"]])
    text = "He asked: which of the two rivers (that cross the OLD city, of Lyon) is -- what?"
    assert found.hits(text) == {"rivers": {1}}
    assert found.shared(text) == {"rivers": {1: "which of the two rivers that cross the old city of lyon is"}}


def test_twelve_words_in_a_row_are_none() -> None:
    words = words_of(QUESTION)
    found = index(rivers=[[QUESTION]])
    assert found.hits(" ".join(words[:13])) == {"rivers": {0}}
    assert found.hits(" ".join(words[:12])) == {}
    assert found.hits(" ".join([*words[:12], "no", *words[13:]])) == {}


def test_a_short_text_counts_as_a_whole() -> None:
    found = index(puns=[[PUN, "A bright one", "all of the above", "5 5 5 5 5"]])
    assert found.hits(f"Well. {PUN.upper()} Thanks!") == {"puns": {0}}
    assert found.hits("Can you share a pun about the moon?") == {}
    assert found.hits("All of the above, a bright one: 5, 5, 5, 5, 5.") == {}


def test_a_benchmarks_own_wording_is_left_out() -> None:
    rows = [[f"{QUESTION} {name}"] for name in "abcdefghijkl"]
    assert len(rows) > MAX_ITEMS
    assert index(many=rows).hits(QUESTION) == {}
    assert index(many=rows[:MAX_ITEMS]).hits(QUESTION) == {"many": set(range(MAX_ITEMS))}
    # in the other benchmark it stands once, twice in the same item
    assert index(many=rows, one=[[QUESTION, QUESTION]]).hits(QUESTION) == {"one": {0}}


def test_items_of_several_benchmarks_and_the_longest_shared_stretch() -> None:
    found = index(puns=[[PUN]], empty=[], rivers=[[QUESTION, PUN]])
    shared = found.shared(f"{PUN} {QUESTION}")
    assert shared == {"puns": {0: " ".join(words_of(PUN))}, "rivers": {0: " ".join(words_of(PUN + QUESTION))}}
    assert index().hits(PUN) == {}


def test_words_of_any_script() -> None:
    assert words_of("Straße, \uff21\uff22_12 nai\u0308ve's") == ["strasse", "ab", "12", "na\u00efve", "s"]
    assert words_of("हिन्दी में।") == ["हिन्दी", "में"]
    assert words_of("日本語のtest") == ["日", "本", "語", "の", "test"]
    river = "长江是中国最长的河流。全长约六千三百公里。"
    assert index(chinese=[[river]]).hits(f"答。{river[:16]}") == {"chinese": {0}}

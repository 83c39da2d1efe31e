"""What must hold in any world: no word unknown to the tokenizer, no exam question in the training data. Pure functions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

Row = Mapping[str, object]


def requests_and_answers(row: Row) -> Iterator[str]:
    """Every text of a row that a model reads or writes, whatever the row's format; a conversation turn by turn."""
    for key in ("text", "question", "answer"):
        if isinstance(value := row.get(key), str):
            yield value
    for message in _rows(row.get("messages")):
        yield str(message["content"])
    for key in ("turns", "choices"):
        for value in _list(row.get(key)):
            if isinstance(value, str):
                yield value
            elif isinstance(value, Mapping):
                yield from requests_and_answers(value)


def words_of(rows: Iterable[Row]) -> set[str]:
    """All words of the rows, split at blanks as the tokenizer does."""
    return {word for row in rows for text in requests_and_answers(row) for word in text.split()}


def check_vocabulary(known: set[str], files: Mapping[str, Sequence[Row]]) -> None:
    """ValueError that names the word and the file, if any file uses a word that is not `known`."""
    for file, rows in files.items():
        if unknown := sorted(words_of(rows) - known):
            raise ValueError(f"{file} uses the word {unknown[0]!r}, which the corpus does not know ({len(unknown)} such words)")


def find_leaks(exams: Mapping[str, Sequence[Row]], training: Mapping[str, Sequence[Row]]) -> list[str]:
    """One line per exam question that stands word for word in a training file.

    Of a conversation only the first turn counts: later ones ("list all they like .") mean nothing without it.
    """
    seen = {text: file for file, rows in training.items() for row in rows for text in requests_and_answers(row)}
    asked = [(file, question) for file, rows in exams.items() for row in rows for question in _questions(row)]
    return [f"{question!r} of {file} stands in {seen[question]}" for file, question in asked if question in seen]


def _questions(row: Row) -> list[str]:
    return [str(row["question"])] if "question" in row else [str(turn) for turn in _list(row.get("turns"))[:1]]


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _rows(value: object) -> list[Row]:
    return [item for item in _list(value) if isinstance(item, Mapping)]

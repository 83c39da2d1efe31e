"""Turns the raw files of this example (README.md says which) into chat messages. By hand: `python examples/smollm2/convert.py`."""

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
Messages = list[dict[str, str]]


def self_instruct(row: dict[str, Any]) -> Messages:
    """A seed task: its instruction with the first instance's input, and that instance's output."""
    instance = row["instances"][0]
    request = "\n\n".join(filter(None, [row["instruction"], instance["input"]]))
    return [{"role": "user", "content": request}, {"role": "assistant", "content": instance["output"]}]


def oasst(row: dict[str, Any]) -> Messages:
    """A tree's thread along first replies, cut after its last assistant turn."""
    roles = {"prompter": "user", "assistant": "assistant"}
    node, messages = row["prompt"], []
    while node:
        messages.append({"role": roles[node["role"]], "content": node["text"]})
        node = next(iter(node.get("replies") or []), None)
    return messages if messages[-1]["role"] == "assistant" else messages[:-1]


def sdg(row: dict[str, Any]) -> Messages:
    """The SDG format. Its knowledge rows hold a whole chat in one string of role `pretraining`, in the teacher's own template."""
    if row["messages"][-1]["role"] != "pretraining":
        return [{"role": turn["role"], "content": turn["content"]} for turn in row["messages"]]
    turns = re.findall(
        r"<\|start_of_role\|>(\w+)<\|end_of_role\|>\n?(.*?)(?=<\|start_of_role\|>|<\|end_of_text\|>|$)",
        row["messages"][-1]["content"],
        re.S,
    )
    return [{"role": role, "content": content.strip()} for role, content in turns]


FILES: dict[str, tuple[str, Callable[[dict[str, Any]], Messages]]] = {
    "self_instruct": ("seed_tasks.jsonl.gz", self_instruct),
    "oasst": ("en_100_tree.jsonl.gz", oasst),
    "sdg_knowledge": ("sdg_knowledge_train_msgs.jsonl.gz", sdg),
    "sdg_skills": ("sdg_skills_train_msgs.jsonl.gz", sdg),
}

if __name__ == "__main__":
    (HERE / "data").mkdir(exist_ok=True)
    for name, (raw, convert) in FILES.items():
        with gzip.open(HERE / "raw" / raw, "rt", encoding="utf-8") as lines:
            chats = [convert(json.loads(line)) for line in lines]
        kept = [chat for chat in chats if any(turn["role"] == "assistant" for turn in chat)]
        (HERE / "data" / f"{name}.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in kept))
        print(f"data/{name}.jsonl: {len(kept)} of {len(chats)} chats")

"""Base models arrive whole, with the template that was asked for, or end with one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sftstudy import config, hashes
from sftstudy.errors import StudyError
from sftstudy.models import fetch_model
from sftstudy.paths import Layout
from sftstudy.spec import ModelSpec


def fetch(root: Path, source: Any) -> Any:
    return fetch_model(ModelSpec(name="toy", model=source), layout=Layout(root / "results", root / "scratch"))


def folder_model(path: Path, **settings: str) -> config.FolderModel:
    return config.FolderModel(source="folder", path=str(path), **settings)


def test_folder_is_copied_byte_by_byte(model_folder: Path, tmp_path: Path) -> None:
    record = fetch(tmp_path, folder_model(model_folder))
    folder = tmp_path / "scratch" / "models" / "toy"
    assert record.weights_hash == hashes.weights_hash(folder) == hashes.weights_hash(model_folder)
    assert record.tokenizer_hash == hashes.tokenizer_hash(folder) == hashes.tokenizer_hash(model_folder)
    assert record.chat_template == "tokenizer"
    assert record == fetch(tmp_path, folder_model(model_folder))
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_only_the_weights_that_would_be_loaded_come_along(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    hub = tmp_path / "hub"
    shutil.copytree(model_folder, hub)
    tensors = load_file(hub / "model.safetensors")
    (hub / "model.safetensors").unlink()
    shards = {"model-00001-of-00002.safetensors": sorted(tensors)[:3], "model-00002-of-00002.safetensors": sorted(tensors)[3:]}
    for file, names in shards.items():
        save_file({name: tensors[name] for name in names}, hub / file)
    places = {name: file for file, names in shards.items() for name in names}
    (hub / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    save_file({"tok_embeddings.weight": tensors["model.embed_tokens.weight"]}, hub / "consolidated.safetensors")
    (hub / "consolidated.safetensors.index.json").write_text("{}")

    def snapshot(*_: Any, allow_patterns: list[str], **__: Any) -> str:
        found = [path for path in hub.iterdir() if any(path.match(pattern) for pattern in allow_patterns)]
        assert not any(path.name.startswith("consolidated") for path in found)
        (tmp_path / "cache").mkdir()
        return str([shutil.copy(path, tmp_path / "cache") for path in found] and tmp_path / "cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for source in (folder_model(hub), config.HubModel(source="hub", id="a/b", revision="main")):
        record = fetch(tmp_path, source)
        assert record.num_parameters == hashes.num_parameters(model_folder)
        assert record.weights_hash == hashes.weights_hash(model_folder)
        names = [path.name for path in (tmp_path / "scratch" / "models" / "toy").glob("*.safetensors*")]
        assert sorted(names) == [*shards, "model.safetensors.index.json"]


def test_shipped_template_is_stored(model_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    own, tulu = (fetch(tmp_path, folder_model(model_folder, chat_template=name)) for name in ("tokenizer", "tulu"))
    assert own.weights_hash == tulu.weights_hash
    assert own.tokenizer_hash != tulu.tokenizer_hash
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "scratch" / "models" / "toy")
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<bos><|user|>\none\n<|assistant|>\ntwo<|end|>"


def test_what_ends_the_import(model_folder: Path, tmp_path: Path) -> None:
    sources = {
        r"nothing: no config.json; give a model folder": folder_model(tmp_path / "nothing"),
        r"package nothere: not installed": config.GgufModel(source="gguf", package="nothere", file="x.gguf"),
        r"x.gguf: missing; install the version": config.GgufModel(source="gguf", package="json", file="x.gguf"),
        r"no/such at main: cannot be downloaded .* `source: folder`": config.HubModel(source="hub", id="no/such", revision="main"),
        r"`chatml`|'chatml' closes replies with <\|im_end\|>": folder_model(model_folder, chat_template="chatml"),
        r"chat_template 'odd': unknown": folder_model(model_folder, chat_template="odd"),
    }
    for message, source in sources.items():
        with pytest.raises(StudyError, match=message) as caught:
            fetch(tmp_path, source)
        assert str(caught.value).startswith("models.yaml: toy: ")
    assert len(sources) == 6
    assert list((tmp_path / "scratch" / "models").iterdir()) == []


def test_a_template_that_never_stops_is_refused(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "odd")
    template = (
        "{% for m in messages %}<|{{ m['role'] }}|> {{ m['content'] }} {% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    (tmp_path / "odd" / "chat_template.jinja").write_text(template)
    with pytest.raises(StudyError, match="does not close replies with a token at which generation stops"):
        fetch(tmp_path, folder_model(tmp_path / "odd"))


def test_missing_template_names_the_shipped_ones(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "base" / "tokenizer_config.json").read_text())
    assert "chat_template" not in settings
    with pytest.raises(StudyError, match=r"no chat template; set `chat_template` in models.yaml to one of chatml, tulu"):
        fetch(tmp_path, folder_model(tmp_path / "base"))

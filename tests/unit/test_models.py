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


def write_gguf(path: Path, template: str) -> dict[str, Any]:
    """A Llama of one layer with a byte-level vocabulary; HF name -> the tensors that need no reordering."""
    import numpy as np
    from gguf import GGUFWriter, TokenType
    from tokenizers.pre_tokenizers import ByteLevel

    words = [*sorted(ByteLevel.alphabet()), "ab", "<|im_start|>", "<|im_end|>"]
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(16)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([TokenType.NORMAL] * 257 + [TokenType.CONTROL] * 2)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_chat_template(template)
    rng = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (len(words), 32),
        "output_norm.weight": (32,),
        "blk.0.attn_norm.weight": (32,),
        "blk.0.ffn_norm.weight": (32,),
        **{f"blk.0.attn_{name}.weight": (32, 32) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate.weight": (48, 32),
        "blk.0.ffn_up.weight": (48, 32),
        "blk.0.ffn_down.weight": (32, 48),
    }
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {
        "model.embed_tokens.weight": tensors["token_embd.weight"],
        "model.layers.0.mlp.down_proj.weight": tensors["blk.0.ffn_down.weight"],
        "model.layers.0.self_attn.v_proj.weight": tensors["blk.0.attn_v.weight"],
    }


def test_gguf_of_a_package_becomes_a_plain_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM

    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    (tmp_path / "packed_weights").mkdir()
    (tmp_path / "packed_weights" / "__init__.py").write_text("")
    expected = write_gguf(tmp_path / "packed_weights" / "toy.gguf", template)
    monkeypatch.syspath_prepend(str(tmp_path))
    record = fetch(tmp_path, config.GgufModel(source="gguf", package="packed_weights", file="toy.gguf"))
    folder = tmp_path / "scratch" / "models" / "toy"
    found = load_file(folder / "model.safetensors")
    assert len(expected) == 3
    for name, tensor in expected.items():
        assert (found[name] == tensor).all(), name
    assert record.num_parameters == sum(tensor.size for tensor in found.values())
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.isfinite(model(torch.tensor([[257, 5, 6]])).logits).all()


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
    with pytest.raises(StudyError, match=r"no chat template; set `chat_template` in models.yaml to one of chatml, lab, "):
        fetch(tmp_path, folder_model(tmp_path / "base"))

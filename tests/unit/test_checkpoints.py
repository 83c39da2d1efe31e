"""Folders appear whole or not at all, and a broken one does not exist for us."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sftstudy import hashes
from sftstudy.errors import StudyError
from sftstudy.train import checkpoints
from sftstudy.train.models import gathered, load_model
from sftstudy.train.parallel import World


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return load_model(model_folder)


def test_saved_weights_load_alike_with_tokenizer_and_template(model: Any, model_folder: Path, tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "ckpt01", gathered(model), base=model_folder, dtype="float32", step=4)
    facts = checkpoints.facts_of(tmp_path / "ckpt01")
    assert facts == {"step": 4, "weights_hash": hashes.weights_hash(model_folder)}
    assert hashes.tokenizer_hash(tmp_path / "ckpt01") == hashes.tokenizer_hash(model_folder)
    loaded = load_model(tmp_path / "ckpt01")
    pairs = list(zip(loaded.parameters(), model.parameters(), strict=True))
    assert len(pairs) > 10
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ckpt01"]


def test_bf16_checkpoints_are_half_the_size_and_leave_the_model_alone(model: Any, model_folder: Path, tmp_path: Path) -> None:
    checkpoints.save_weights(tmp_path / "ckpt01", gathered(model), base=model_folder, dtype="bfloat16")
    assert json.loads((tmp_path / "ckpt01" / "config.json").read_text())["dtype"] == "bfloat16"
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tmp_path / "ckpt01", model_folder)]
    assert sizes[0] < 0.6 * sizes[1]
    assert hashes.num_parameters(tmp_path / "ckpt01") == hashes.num_parameters(model_folder)
    assert next(model.parameters()).dtype == torch.float32


def test_weights_hash_sees_bytes_and_names_but_not_sharding(model: Any, model_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model_folder / "model.safetensors")
    names = sorted(tensors)
    for folder in ("sharded", "changed", "renamed"):
        (tmp_path / folder).mkdir()
        shutil.copy(model_folder / "config.json", tmp_path / folder)
    save_file({name: tensors[name] for name in names[:3]}, tmp_path / "sharded" / "b.safetensors", metadata={"x": "y"})
    save_file({name: tensors[name] for name in names[3:]}, tmp_path / "sharded" / "a.safetensors")
    places = {name: "b.safetensors" if name in names[:3] else "a.safetensors" for name in names}
    (tmp_path / "sharded" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    save_file({**tensors, names[0]: tensors[names[0]] + 1e-6}, tmp_path / "changed" / "model.safetensors")
    save_file({name + "x": tensor for name, tensor in tensors.items()}, tmp_path / "renamed" / "model.safetensors")
    found = [hashes.weights_hash(tmp_path / folder) for folder in ("sharded", "changed", "renamed")]
    assert found[0] == hashes.weights_hash(model_folder)
    assert len({*found}) == 3
    (tmp_path / "sharded" / "b.safetensors").unlink()
    with pytest.raises(StudyError, match=r"sharded: model.safetensors.index.json names b.safetensors, which is not there"):
        hashes.weights_hash(tmp_path / "sharded")


def test_weights_hash_sees_the_settings_that_compute_and_no_others(model_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(model_folder, tmp_path / "toy")
    settings = json.loads((model_folder / "config.json").read_text())
    settings["text_config"] = {"sliding_window": 8}

    def hash_with(**changes: Any) -> str:
        (tmp_path / "toy" / "config.json").write_text(json.dumps({**settings, **changes}))
        return hashes.weights_hash(tmp_path / "toy")

    idle = {"transformers_version": "6", "dtype": "bfloat16", "torch_dtype": "bfloat16", "_name_or_path": "x"}
    assert hash_with() == hash_with(**idle) == hash_with(text_config={**settings["text_config"], **idle})
    rope = {**settings["rope_parameters"], "rope_theta": 5e5}
    assert len({hash_with(), hash_with(rms_norm_eps=1e-2), hash_with(rope_parameters=rope), hash_with(text_config={})}) == 4
    for text, message in {"[1]": "not a model's config", None: "no config.json"}.items():
        (tmp_path / "toy" / "config.json").write_text(text) if text else (tmp_path / "toy" / "config.json").unlink()
        with pytest.raises(StudyError, match=message):
            hashes.weights_hash(tmp_path / "toy")


def test_a_checkpoints_hash_is_that_of_its_folder_and_of_one_saved_from_it(model: Any, model_folder: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        checkpoints.save_weights(tmp_path / dtype, gathered(model), base=model_folder, dtype=dtype)
        loaded = load_model(tmp_path / dtype)
        checkpoints.save_weights(tmp_path / "again", gathered(loaded), base=model_folder, dtype=dtype)
        first, second = (checkpoints.facts_of(tmp_path / name) for name in (dtype, "again"))
        assert first == second == {"weights_hash": hashes.weights_hash(tmp_path / dtype)}


def test_an_exception_leaves_the_old_folder_and_no_other(tmp_path: Path) -> None:
    with checkpoints.sealed_folder(tmp_path / "a", {"number": 1}) as partial:
        (partial / "file").write_text("one")
    with pytest.raises(IsADirectoryError), checkpoints.sealed_folder(tmp_path / "a", {"number": 2}) as partial:
        partial.write_text("two")
    assert checkpoints.facts_of(tmp_path / "a") == {"number": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def write_state(folder: Path) -> None:
    (folder / "state.pt").write_bytes(b"state of this step")


def damage_flip(folder: Path) -> None:
    (folder / "state.pt").write_bytes(b"7" + (folder / "state.pt").read_bytes()[1:])


def damage_cut(folder: Path) -> None:
    (folder / "state.pt").write_bytes((folder / "state.pt").read_bytes()[:-1])


def damage_unmark(folder: Path) -> None:
    (folder / checkpoints.MARKER).unlink()


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, damage_unmark])
def test_newest_two_states_stay_and_a_broken_one_is_passed_over(damage: Any, world: World, tmp_path: Path, capsys: Any) -> None:
    for step in (9, 10, 110):
        checkpoints.save_resume(tmp_path, step=step, write=write_state, world=world, spec_hash="a")
    assert [step for step, _ in checkpoints.resume_states(tmp_path, spec_hash="a")] == [110, 10]
    assert list(checkpoints.resume_states(tmp_path, spec_hash="b")) == []
    damage(tmp_path / "step00000110")
    assert [step for step, _ in checkpoints.resume_states(tmp_path, spec_hash="a")] == [10]
    assert "step00000110: broken, or of other inputs; skipped" in capsys.readouterr().err


def test_states_after_the_resumed_step_do_not_outlive_new_ones(world: World, tmp_path: Path) -> None:
    def save(step: int) -> None:
        checkpoints.save_resume(tmp_path, step=step, write=write_state, world=world)

    for step in (6, 8, 100):
        save(step)
    checkpoints.forget_after(tmp_path, 8)
    save(9)
    assert [step for step, _ in checkpoints.resume_states(tmp_path)] == [9, 8]

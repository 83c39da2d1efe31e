"""Our losses and gradient norms are those of transformers' Trainer, step by step, in one process and in two."""

import os
import tempfile
from typing import Any

import numpy as np
import pytest
import torch

from processes import in_processes
from sftstudy.config import Training
from sftstudy.train import loop
from sftstudy.train.batches import Sample
from sftstudy.train.parallel import joined, spread
from sftstudy.train.schedule import learning_rate
from training_toys import random_model, random_samples, training

NUM_STEPS = 50
LENGTHS = [5, 17, 3, 9, 9, 2, 12, 23, 4, 7, 2, 30]
ROWS_PER_PROCESS = 2
SETTINGS: dict[str, dict[str, Any]] = {
    "constant": {"schedule": "constant"},
    "linear with warm-up": {"schedule": "linear", "warmup_steps": 10, "weight_decay": 0.1, "beta2": 0.95, "epsilon": 1e-6},
}


def settings_of(name: str) -> Training:
    return training(
        effective_batch_size=len(LENGTHS), learning_rate=3e-3, clip_norm=1.0, max_tokens_per_microbatch=40, **SETTINGS[name]
    )


def samples_of(step_index: int) -> list[Sample]:
    """Five batches, over and over, so that there is something to learn."""
    return random_samples(LENGTHS, seed=step_index % 5)


def ours(name: str) -> dict[str, Any]:
    """What our loop logs; runs in every process."""
    settings = settings_of(name)
    results: list[loop.StepResult] = []
    with joined("cpu") as world:
        model = random_model()
        spread(model, world, precision="fp32", sharding="none", cpu_offload=False)
        loop.train(
            model,
            loop.make_optimizer(model, settings),
            first_step=0,
            num_steps=NUM_STEPS,
            seed=0,
            training=settings,
            world=world,
            packed=False,
            samples_of=samples_of,
            rate_of=lambda step_index: learning_rate(step_index, num_steps=NUM_STEPS, training=settings),
            after_step=lambda _, result: results.append(result),
        )
        return {
            "size": world.size,
            "losses": [result.loss for result in results],
            "norms": [result.grad_norm for result in results],
            "rates": [result.learning_rate for result in results],
            "supervised": [result.num_supervised_tokens for result in results],
        }


def theirs(name: str) -> dict[str, Any]:
    """What Trainer logs, in the same order of samples; runs in every process.

    It gets torch's AdamW over all weights and our learning rates: by itself it would leave norms out of the decay, and its warm-up
    starts with a step at zero.
    """
    import transformers

    settings, size = settings_of(name), int(os.environ["WORLD_SIZE"])
    rows = [
        {"input_ids": ids.astype(np.int64), "labels": np.where(mask, ids, -100)}
        for step_index in range(NUM_STEPS)
        for ids, mask in samples_of(step_index)
    ]

    def collate(batch: list[Any]) -> dict[str, torch.Tensor]:
        def padded(name: str, value: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence(
                [torch.from_numpy(row[name].astype(np.int64)) for row in batch], batch_first=True, padding_value=value
            )

        return {
            "input_ids": padded("input_ids", 0),
            "attention_mask": (padded("input_ids", -1) >= 0).long(),
            "labels": padded("labels", -100),
        }

    model = random_model()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate(step, num_steps=NUM_STEPS, training=settings) / settings.learning_rate
    )
    rates: list[float] = []

    class Rates(transformers.TrainerCallback):
        def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
            rates.append(optimizer.param_groups[0]["lr"])

    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=ROWS_PER_PROCESS,
            gradient_accumulation_steps=len(LENGTHS) // ROWS_PER_PROCESS // size,
            max_steps=NUM_STEPS,
            max_grad_norm=settings.clip_norm,
            average_tokens_across_devices=True,
            train_sampling_strategy="sequential",
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = transformers.Trainer(
            model, arguments, data_collator=collate, train_dataset=rows, optimizers=(optimizer, schedule), callbacks=[Rates()]
        )
        trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "size": trainer.accelerator.num_processes,
        "distributed": trainer.accelerator.distributed_type.value,
        "losses": [float(entry["loss"]) for entry in logs],
        "norms": [float(entry["grad_norm"]) for entry in logs],
        "rates": rates,
    }


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", SETTINGS)
def test_losses_and_norms_are_the_trainers(name: str, number: int) -> None:
    mine, peer = in_processes(number, ours, name)[0], in_processes(number, theirs, name)
    # accelerate runs as many single processes instead under some settings, and says nothing
    assert [mine["size"], *(one["size"] for one in peer)] == [number] * (number + 1)
    assert peer[0]["distributed"] == "MULTI_CPU"
    assert len(mine["losses"]) == len(peer[0]["losses"]) == NUM_STEPS
    assert peer[0]["rates"] == pytest.approx(mine["rates"], rel=1e-12)
    loss = np.abs(np.subtract(mine["losses"], peer[0]["losses"])).max()
    norm = np.abs(np.divide(mine["norms"], peer[0]["norms"]) - 1).max()
    print(f"| {name} | {number} | {loss:.1e} | {norm:.1e} |")
    assert (loss < 1e-4, norm < 1e-3) == (True, True)
    assert len(set(mine["supervised"])) > 1
    assert mine["losses"][-1] < 0.8 * mine["losses"][0]
    assert max(mine["norms"]) > 1  # clipped

"""Memory and time by arithmetic: against what torch really keeps, what sharding and offloading change, and known sizes."""

from typing import Any

import pytest

from sftstudy import hashes, needs
from sftstudy.config import Training
from sftstudy.gpus import GPUS, gpu_named
from sftstudy.sizes import ModelSize

LLAMA_2_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
LLAMA_32_3B = {
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
}
TOY = {
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def size(architecture: dict[str, Any]) -> ModelSize:
    found = ModelSize.of(architecture)
    assert found is not None
    return found


def training(**changes: Any) -> Training:
    settings = {"effective_batch_size": 128, "learning_rate": 1e-5, "epochs": 1, "num_checkpoints": 1, "precision": "bf16"}
    return Training.model_validate(settings | changes)


def memory_gb(num_gpus: int = 1, **changes: Any) -> float:
    return needs.training_memory(size(LLAMA_2_7B), training(**changes), num_gpus=num_gpus, longest=4096).gpu_gb


def test_published_sizes_come_out() -> None:
    assert size(LLAMA_2_7B).num_parameters == 6_738_415_616
    assert size(LLAMA_32_3B).num_parameters == 3_212_749_824
    assert ModelSize.of({"hidden_size": 32}) is None


def test_a_models_size_is_what_transformers_makes(model_folder: Any, tokenizer: Any) -> None:
    architecture = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = size(architecture | {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "tie_word_embeddings": True})
    assert made.num_parameters == hashes.num_parameters(model_folder)


def test_adapters_are_as_many_as_peft_makes() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    from sftstudy.config import Lora
    from sftstudy.train.models import with_adapters

    model = with_adapters(LlamaForCausalLM(LlamaConfig(**TOY)), Lora(rank=8, alpha=16), seed=0)
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert size(TOY).adapter_parameters(8) == learning


@pytest.mark.parametrize(("precision", "compute"), [("float32", 4), ("bfloat16", 2)])
def test_activations_are_what_torch_keeps_for_the_backward_pass(precision: str, compute: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**TOY, attn_implementation="sdpa")).to(getattr(torch, precision))

    def kept_bytes(num_tokens: int) -> int:
        weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        kept: list[Any] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
            model.model(input_ids=torch.zeros((1, num_tokens), dtype=torch.int64), use_cache=False)
        stores = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in kept}
        return sum(size for address, size in stores.items() if address not in weights)

    per_token = (kept_bytes(192) - kept_bytes(64)) / 128
    assert needs.activation_bytes(size(TOY), compute=compute, recomputed=False) == pytest.approx(per_token, rel=0.1)


def test_what_each_option_saves() -> None:
    whole = memory_gb()
    assert 130 < whole < 180  # 18 bytes a weight, and activations
    assert memory_gb(8) == whole  # each GPU holds all of it
    assert memory_gb(activation_checkpointing=True) < whole
    assert memory_gb(optimizer="adamw-8bit") == pytest.approx(whole - 1.1 * 5.9 * 6.738, rel=1e-3)
    sharded = [memory_gb(number, sharding="full", activation_checkpointing=True) for number in (1, 2, 4, 8)]
    assert sharded == sorted(sharded, reverse=True)
    assert sharded[1] < 80 < sharded[0]
    assert memory_gb(sharding="full", activation_checkpointing=True, cpu_offload=True) < 24
    assert memory_gb(lora={"rank": 16, "alpha": 16}, activation_checkpointing=True) < 80
    assert memory_gb(precision="fp32") > whole
    assert memory_gb(max_tokens_per_microbatch=8192) > whole


def test_offloaded_states_are_in_the_hosts_memory_once_if_sharded() -> None:
    def host_gb(**changes: Any) -> float:
        return needs.training_memory(size(LLAMA_2_7B), training(**changes), num_gpus=8, longest=4096).host_gb

    states = 16 * 6.738415616
    assert host_gb(cpu_offload=True, sharding="full") - host_gb(sharding="full") == pytest.approx(states)
    assert host_gb(cpu_offload=True) - host_gb() == pytest.approx(8 * states)


def test_flops_are_those_that_the_training_loop_reports(model_folder: Any, tokenizer: Any) -> None:
    from sftstudy.train.flops import step_flops
    from sftstudy.train.models import load_model

    architecture = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    made = size(architecture | {"num_key_value_heads": 2, "vocab_size": len(tokenizer), "tie_word_embeddings": False})
    reported = step_flops(load_model(model_folder), [20] * 4, num_supervised_tokens=40)
    per_token = needs.training_flops(made, training(), mean_length=20, supervised_share=0.5)
    assert 80 * per_token == pytest.approx(reported, rel=1e-6)


def test_time_falls_with_the_gpu_and_grows_with_what_is_done_again_or_fetched() -> None:
    def rate(gpu: str = "H100", **changes: Any) -> float:
        return needs.training_rate(size(LLAMA_2_7B), training(**changes), gpu=GPUS[gpu], mean_length=500)

    assert 7_000 < rate() < 9_000  # tokens a second: 989 TFLOP/s x 0.35 / (6 x 6.7e9)
    assert rate("A100") < rate() / 3
    assert rate(activation_checkpointing=True) == pytest.approx(rate() * 3 / 4, rel=0.03)
    assert rate(lora={"rank": 16, "alpha": 16}) > rate()
    assert rate(precision="fp32") < rate() / 10


def token_s(function: Any, *, num_gpus: int = 8, num_nodes: int = 1, **changes: Any) -> float:
    found: float = function(size(LLAMA_2_7B), training(**changes), num_gpus=num_gpus, num_nodes=num_nodes, mean_length=500)
    return found


def test_offloading_pays_the_bus_by_micro_batch_and_the_host_by_step() -> None:
    def offload(**changes: Any) -> float:
        return token_s(needs.offload_seconds, cpu_offload=True, sharding="full", **changes)

    weights = 6_738_415_616
    # by hand, on one GPU: fp32 weights there twice and gradients back for 4,096 tokens; 16 bytes of states read and written a step
    assert offload(num_gpus=1) == pytest.approx(12 * weights / 25e9 / 4096 + 32 * weights / 50e9 / (128 * 500))
    assert token_s(needs.offload_seconds, sharding="full") == 0
    assert offload(max_tokens_per_microbatch=16384) < offload()
    bus = 12 * weights / 25e9 / 4096
    # eight GPUs fetch an eighth each; the host's work for a step does not get less, so that a GPU's token waits eight times as long
    assert offload(num_gpus=8) == pytest.approx(bus / 8 + 8 * (offload(num_gpus=1) - bus))


def test_the_network_costs_nothing_on_one_node_and_is_paid_by_micro_batch_where_weights_are_spread() -> None:
    def network(**changes: Any) -> float:
        return token_s(needs.network_seconds, **({"num_nodes": 2, "effective_batch_size": 3840, "sharding": "full"} | changes))

    weights = 6_738_415_616
    assert network(num_nodes=1) == 0
    # by hand: half of the bf16 weights twice and of the fp32 gradients, 25 GB/s, for each 4,096 tokens
    assert network() == pytest.approx(weights * (2 + 2 + 4) / 2 / 25e9 / 4096)
    assert network(max_tokens_per_microbatch=16384) == pytest.approx(network() / 4)
    # gradients there and back once per step, of which a GPU has 3840 x 500 / 16 tokens
    assert network(sharding="none") == pytest.approx(weights * 8 / 2 / 25e9 / (3840 * 500 / 16))
    assert network(num_nodes=4) == pytest.approx(network() * 1.5)
    assert network(effective_batch_size=16) > 4 * network()  # micro-batches that are not full
    assert network(lora={"rank": 16, "alpha": 16}) < network() / 1.9  # no gradients of frozen weights


def test_nodes_share_states_and_not_the_host() -> None:
    def memory(num_nodes: int) -> needs.Memory:
        settings = training(sharding="full", activation_checkpointing=True)
        return needs.training_memory(size(LLAMA_2_7B), settings, num_gpus=8, num_nodes=num_nodes, longest=4096)

    assert memory(1).gpu_gb - memory(2).gpu_gb == pytest.approx(1.1 * 16 * 6.738 / 16, rel=1e-3)
    assert memory(1).host_gb == memory(2).host_gb  # of each


def test_a_device_is_known_by_the_longest_name() -> None:
    assert gpu_named("NVIDIA H100 80GB HBM3") is GPUS["H100"]
    assert gpu_named("NVIDIA H100 PCIe") is GPUS["H100 PCIe"]
    assert gpu_named("rtx 4090") is GPUS["RTX 4090"]
    assert gpu_named("NVIDIA A100-SXM4-80GB") is GPUS["A100"]
    assert [gpu_named(name) for name in ("cpu", "NVIDIA L40", "NVIDIA RTX A1000")] == [None] * 3

"""Scores checkpoints: lm-eval benchmarks, and MT-Bench answers with their judgments."""

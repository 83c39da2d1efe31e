"""A reproducible pipeline for supervised fine-tuning studies of small language models."""

__version__ = "0.1.0"

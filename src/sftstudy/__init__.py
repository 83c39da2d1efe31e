"""A reproducible pipeline for supervised fine-tuning studies of small language models."""

"""Trains: base models of the tiny world, and stages of fine-tuning."""

"""What a study's own scores advise: a recipe with its evidence, and what to try next."""

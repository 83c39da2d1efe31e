"""The paper's findings as checks over a study's records: `check` decides, `arms` and `signals` measure, `verdicts` is the logic."""

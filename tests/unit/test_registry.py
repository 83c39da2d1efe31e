"""Reading config: what a user gets wrong ends in one line that names file, key and remedy."""

from pathlib import Path

import pytest

from sftstudy.config import HubModel
from sftstudy.errors import StudyError
from sftstudy.plan import Plan
from sftstudy.registry import load
from sftstudy.spec import spec_hash

CONFIG = Path(__file__).parents[2] / "config"


def overlay(folder: Path, **files: str) -> Path:
    """An overlay folder with the given YAML files; `studies_x` is studies/x.yaml."""
    for name, text in ({"config": "studies: [tiny]"} | files).items():
        file = folder / f"{name.replace('studies_', 'studies/')}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


def study(model: str = "tiny-llama", data: str = "tiny", recipe: str = "mine", benchmark: str = "tiny-mmlu") -> dict[str, str]:
    """An active study of one run."""
    grid = f"{{model: [{model}], data: [{data}], recipe: [{recipe}], seed: [1]}}"
    return {"config": "studies: [mine]", "studies_mine": f"question: q\nruns: [{grid}]\nbenchmarks: [{benchmark}]"}


LAB = "{effective_batch_size: 8, learning_rate: 1e-3, epochs: 1, num_checkpoints: 1}"


def branches(**starts: str) -> str:
    """Phased recipes by name, each with what stands in its `starts_from: {recipe: ...}`."""
    held = (f"{name}: {{strategy: phased, training: {LAB}, starts_from: {{recipe: {start}}}}}" for name, start in starts.items())
    return f"recipes: {{{', '.join(held)}}}"


def claiming(keys: str, kind: str = "direction") -> dict[str, str]:
    """An active study of two models with recipes of their own, and a claim about them."""
    grids = (
        "{model: [tiny-llama], data: [tiny], recipe: [tiny-lab-stacked, tiny-lab-cosine], seed: [1]}",
        "{model: [granite-7b], data: [paper-phases], recipe: [lab-stacked], seed: [1]}",
    )
    more = "" if kind == "early-signal" else ", margins: {mmlu: 0.1}"
    text = (
        f"question: q\nruns: [{', '.join(grids)}]\nbenchmarks: [mmlu]\nclaims: {{c: {{kind: {kind}, statement: s, {keys}{more}}}}}"
    )
    return {"config": "studies: [mine]", "studies_mine": text}


MISTAKES = {
    "unknown key": (
        {"recipes": "recipes: {mine: {strategy: stacked, training: {learning_rte: 1}}}"},
        "recipes.yaml: recipes.mine.training.learning_rte: unknown key; did you mean 'learning_rate'?",
    ),
    "key given twice": (
        {"models": "a: {source: folder, path: x}\na: {source: folder, path: y}"},
        "models.yaml: not YAML: key 'a' is given twice",
    ),
    "missing key": ({"models": "a: {source: folder}"}, "models.yaml: a.path: missing; add this key"),
    "bad value": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB.replace('8', '0', 1)}}}}}"},
        "recipes.yaml: recipes.mine.training.effective_batch_size: input should be greater than 0 (got 0)",
    ),
    "two warm-ups": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB[:-1]}, warmup_steps: 1, warmup_ratio: 0.1}}}}}}"},
        "recipes.mine.training: give warmup_steps or warmup_ratio, not both",
    ),
    "name taken": (
        {"models": "tiny-llama: {source: folder, path: x}"},
        "models.yaml: tiny-llama: defined before; choose another name",
    ),
    "unusable name": ({"models": "My_Model: {source: folder, path: x}"}, "models.yaml: My_Model: not a usable name"),
    "misspelt study": ({"config": "studies: [tny]"}, "config.yaml: studies: no study 'tny'; did you mean 'tiny'?"),
    "misspelt model": (
        study(model="tiny-lama", recipe="tiny-lab-stacked"),
        "studies/mine.yaml: runs.0.model: no model 'tiny-lama'; did you mean 'tiny-llama'?",
    ),
    "misspelt benchmark": (
        study(recipe="tiny-lab-stacked", benchmark="tiny-mmlo"),
        "studies/mine.yaml: benchmarks.0: no benchmark 'tiny-mmlo'; did you mean 'tiny-mmlu'?",
    ),
    "batch exceeds the data": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB.replace('8', '999999', 1)}}}}}"} | study(),
        "recipes.yaml: mine: with data 'tiny', stage 01-stacked: effective_batch_size 999999 exceeds the",
    ),
    "training on the exam": (
        {
            "data": "leaky: {phases: {all: {num_samples: 100, sources: [{from: {world: tiny, file: mt_questions.jsonl}}]}}}",
            "recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB}}}}}",
        }
        | study(data="leaky", benchmark="tiny-mt-bench"),
        "data.yaml: leaky.phases.all.sources.0.from: the suite 'tiny-mt-bench' scores these very items; train on another split",
    ),
    "benchmark in two suites": (
        {
            "benchmarks": (
                "mine: {kind: harness, benchmarks: "
                "{tiny-mmlu: {tasks: [arc_easy], metric: acc, uses: [{hub: allenai/ai2_arc, split: test}]}}}"
            )
        },
        "benchmarks.yaml: mine.benchmarks.tiny-mmlu: suite 'tiny-harness' has a benchmark of this name; choose another",
    ),
    "recipe named like a sweep": (
        {"recipes": f"recipes: {{tiny-batch-lr: {{strategy: stacked, training: {LAB}}}}}"},
        "recipes.yaml: tiny-batch-lr: a recipe and a sweep have this name; choose another",
    ),
    "stacked with replay": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB[:-1]}, replay: 0.3}}}}}}"},
        "recipes.yaml: recipes.mine: a stacked recipe has one stage: remove stages, select and replay, or make it phased",
    ),
    "warm-up without end": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB[:-1]}, warmup_steps: 9999}}}}}}"} | study(),
        "recipes.yaml: mine: with data 'tiny', stage 01-stacked: warmup_steps 9999 never end within",
    ),
    "table of a sweep that is not run": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB}}}}}"}
        | study()
        | {
            "studies_mine": study()["studies_mine"]
            + "\ntables: {t: {kind: grid, caption: c, sweep: tiny-batch-lr, rows: a, columns: b}}"
        },
        "studies/mine.yaml: tables.t.sweep: 'tiny-lab-stacked' is not run; add 'tiny-batch-lr' to the study's runs",
    ),
    "claim about a recipe that is not run": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB}}}}}"}
        | study()
        | {
            "studies_mine": study()["studies_mine"]
            + "\nclaims: {c: {kind: direction, statement: s, first: mine, second: miner, margins: {tiny-mmlu: 0.1}}}"
        },
        "studies/mine.yaml: claims.c: no recipe of this study 'miner'; did you mean 'mine'?",
    ),
    "claim whose arms are never run on the same model": (
        claiming("first: tiny-lab-stacked, second: lab-stacked"),
        "studies/mine.yaml: claims.c: no model and data set has both arms; run both on one",
    ),
    "claim with two recipes for one arm": (
        claiming("first: [tiny-lab-stacked, tiny-lab-cosine], second: tiny-lab-stacked"),
        "studies/mine.yaml: claims.c: 'tiny-lab-stacked' and 'tiny-lab-cosine' are one arm, and both are run on the same",
    ),
    "claim that ranks one recipe": (
        claiming("recipes: [lab-stacked], signal: loss, promising: high, benchmarks: [mmlu]", kind="early-signal"),
        "studies/mine.yaml: claims.c: recipes: no model and data set has two of them; there is nothing to rank",
    ),
    "selection by nothing": (
        {"recipes": f"recipes: {{mine: {{strategy: phased, training: {LAB}, select: {{instruct: {{rule: best}}}}}}}}"},
        "recipes.yaml: recipes.mine.select.instruct: give either benchmark or weights",
    ),
    "kept recipe that is not there": (
        {"config": "studies: [tiny]\nkeep: [tiny-lab-stakked]"},
        "config.yaml: keep: no recipe 'tiny-lab-stakked'; did you mean 'tiny-lab-stacked'?",
    ),
    "start of an unknown recipe": (
        {"recipes": branches(mine="tiny-lab-fazed, phase: instruct")},
        "recipes.yaml: recipes.mine.starts_from.recipe: no recipe 'tiny-lab-fazed'; did you mean 'tiny-lab-phased'?",
    ),
    "start of a stacked recipe": (
        {"recipes": branches(mine="tiny-lab-stacked, phase: instruct")},
        "recipes.yaml: recipes.mine.starts_from.recipe: 'tiny-lab-stacked' is stacked and has no stage of one phase",
    ),
    "starts in a circle": (
        {"recipes": branches(mine="yours, phase: instruct", yours="mine, phase: knowledge")},
        "recipes.yaml: recipes.mine.starts_from.recipe: mine -> yours -> mine is a circle; let one of them start from the base",
    ),
    "start of an unknown phase": (
        {"recipes": branches(mine="tiny-lab-phased, phase: knowlege")} | study(),
        "recipes.yaml: mine: starts_from.phase: no phase of data 'tiny' 'knowlege'; did you mean 'knowledge'?",
    ),
    "start after the last phase": (
        {"recipes": branches(mine="tiny-lab-phased, phase: skills")} | study(),
        "recipes.yaml: mine: starts_from.phase: 'skills' is the last phase of data 'tiny'; name one that others follow",
    ),
    "start of a phase that was trained before": (
        {"recipes": branches(mine="yours, phase: instruct", yours="tiny-lab-phased, phase: knowledge")} | study(),
        "recipes.yaml: mine: starts_from.phase: 'yours' itself starts after 'instruct'; name the recipe that trains it",
    ),
    "start without a selection": (
        {"recipes": branches(mine="yours, phase: knowledge", yours="tiny-lab-phased, phase: instruct")} | study(),
        "recipes.yaml: yours: select.knowledge: missing; say how this phase's checkpoint is chosen",
    ),
    "selection of a phase before the start": (
        {"recipes": branches(mine="tiny-lab-phased, phase: instruct")[:-2] + ", select: {instruct: {benchmark: tiny-mmlu}}}}"}
        | study(),
        "recipes.yaml: mine: no phase of data 'tiny' after 'instruct' 'instruct'; known: knowledge, skills",
    ),
    "source of a key that is not there": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB}, sources: {{paper: [learning_rte]}}}}}}"},
        "recipes.yaml: recipes.mine: sources: learning_rte is no key of this definition; correct it, or remove it",
    ),
    "two sources of a key": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB}, sources: {{paper: [epochs], code: [epochs]}}}}}}"},
        "recipes.yaml: recipes.mine.sources: epochs stands there twice; name one source for it",
    ),
    "saves within a step": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB.replace('num_checkpoints: 1', 'save_every: 7')}}}}}"}
        | study(),
        "recipes.yaml: mine: with data 'tiny', stage 01-stacked: save_every 7 is less than a batch of 8; save less often",
    ),
    "pin of a model that has a revision": (
        {"config": "studies: [tiny]\npins: {x/y: abc}", "models": "mine: {source: hub, id: x/y, revision: def}"},
        "config.yaml: pins: no model without a revision and with the id 'x/y'; known: ibm-granite/granite-3b-code-base-2k, ",
    ),
    "unknown model instead": (
        {"config": "studies: [tiny]\ninstead: {model: {tiny-llama: tny-llama}}"},
        "config.yaml: instead.model: no model 'tny-llama'; did you mean 'tiny-llama'?",
    ),
    "sweeps that disagree on a cell": (
        {
            "recipes": (
                "sweeps: {a: {base: tiny-lab-stacked, vary: {clip_norm: [2.0]}, name: x}, "
                "b: {base: tiny-lab-stacked, vary: {clip_norm: [3.0]}, name: x}}"
            )
        },
        "recipes.yaml: x: defined before; choose another name, results are filed by it",
    ),
    "figure of a sweep that is not run": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB}}}}}"}
        | study()
        | {
            "studies_mine": study()["studies_mine"]
            + "\nfigures: {f: {kind: factor, caption: c, recipes: {LAB: tiny-batch-lr}, factor: learning_rate}}"
        },
        "studies/mine.yaml: figures.f.LAB: 'tiny-lab-stacked' is not run; add 'tiny-batch-lr' to the study's runs",
    ),
    "figure of a benchmark that is not scored": (
        {"recipes": f"recipes: {{mine: {{strategy: stacked, training: {LAB}}}}}"}
        | study()
        | {
            "studies_mine": study()["studies_mine"]
            + "\nfigures: {f: {kind: final, caption: c, arms: {A: mine}, benchmarks: [tiny-mt-bench]}}"
        },
        "studies/mine.yaml: figures.f.benchmarks: no benchmark of this study 'tiny-mt-bench'; known: tiny-mmlu",
    ),
    "table of the paper with other arms": (
        study(recipe="tiny-lab-stacked, tiny-lab-phased")
        | {
            "studies_mine": study(recipe="tiny-lab-stacked, tiny-lab-phased")["studies_mine"]
            + "\ntables: {t: {kind: arms, caption: c, arms: {A: tiny-lab-stacked, B: tiny-lab-phased}, paper: table-11}}"
        },
        "studies/mine.yaml: tables.t.paper: the arms of 'table-11' are Stacked, Phased; call yours the same",
    ),
    "published table that is not there": (
        study(recipe="tiny-lab-stacked")
        | {
            "studies_mine": study(recipe="tiny-lab-stacked")["studies_mine"]
            + "\ntables: {t: {kind: published, caption: c, tables: [table-14]}}"
        },
        "studies/mine.yaml: tables.t.tables: no entry of paper/tables.yaml 'table-14'; did you mean 'table-13'?",
    ),
    "no selection": (
        {"recipes": f"recipes: {{mine: {{strategy: phased, training: {LAB}}}}}"} | study(),
        "recipes.yaml: mine: select.instruct: missing; say how this phase's checkpoint is chosen",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_ends_in_one_line(mistake: str, tmp_path: Path) -> None:
    files, message = MISTAKES[mistake]
    with pytest.raises(StudyError) as caught:
        Plan.from_config(CONFIG, overlay=overlay(tmp_path, **files))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_overlay_and_missing_settings(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no such folder"):
        load(CONFIG, overlay=tmp_path / "nowhere")
    with pytest.raises(StudyError, match="it names the active studies"):
        load(CONFIG, overlay=tmp_path)


def test_overlay_adds_and_its_paths_are_its_own(tmp_path: Path) -> None:
    registry, active = load(CONFIG, overlay=overlay(tmp_path, models="mine: {source: folder, path: weights}"))
    assert Path(registry.models["mine"].path) == tmp_path / "weights"
    assert "tiny-llama" in registry.models
    assert active == ["tiny"]


def test_sweep_cell_that_equals_its_base_keeps_its_name() -> None:
    registry, _ = load(CONFIG)
    cells = registry.sweeps["tiny-batch-lr"]
    assert "tiny-lab-stacked" in cells
    assert len(cells) == len(set(cells)) > 1
    assert all(cell in registry.recipes for cell in cells)


def test_sweeps_share_equal_cells(tmp_path: Path) -> None:
    rates = "{base: tiny-lab-stacked, vary: {learning_rate: [%s]}, name: '{base}-{learning_rate:g}'}"
    registry, _ = load(CONFIG, overlay=overlay(tmp_path, recipes=f"sweeps: {{a: {rates % '1, 2'}, b: {rates % '2, 3'}}}"))
    assert registry.sweeps["a"] == ["tiny-lab-stacked-1", "tiny-lab-stacked-2"]
    assert registry.sweeps["b"] == ["tiny-lab-stacked-2", "tiny-lab-stacked-3"]


def test_a_registry_may_be_spread_over_files_and_a_message_names_the_right_one(tmp_path: Path) -> None:
    files = {"models/hub": "mine: {source: hub, id: x/y}", "models": "yours: {source: folder, path: w}"} | study(
        model="mine", recipe="tiny-lab-stacked"
    )
    plan = Plan.from_config(CONFIG, overlay=overlay(tmp_path, **files))
    assert {"mine", "yours", "tiny-llama"} <= plan.registry.models.keys()
    assert plan.missing_inputs == [
        "models/hub.yaml: mine.revision: not stated; choose a commit on the hub, and put `pins: {x/y: COMMIT}` into config.yaml of "
        "your overlay"
    ]
    with pytest.raises(StudyError, match=r"models/hub.yaml: yours: defined before"):
        load(CONFIG, overlay=overlay(tmp_path, **{"models/hub": "yours: {source: folder, path: w}"}))


def test_a_pin_is_the_revision(tmp_path: Path) -> None:
    files = {"models": "mine: {source: hub, id: x/y}"} | study(model="mine", recipe="tiny-lab-stacked")
    pinned = files | {"config": "studies: [mine]\npins: {x/y: abc}"}
    plan = Plan.from_config(CONFIG, overlay=overlay(tmp_path, **pinned))
    model = plan.registry.models["mine"]
    assert isinstance(model, HubModel)
    assert model.revision == "abc"
    assert plan.missing_inputs == []
    unpinned = Plan.from_config(CONFIG, overlay=overlay(tmp_path, **files))
    assert spec_hash(plan.model_spec("mine")) != spec_hash(unpinned.model_spec("mine"))


def test_a_study_runs_on_what_is_named_instead(tmp_path: Path) -> None:
    files = {
        "config": "studies: [tiny]\ninstead: {model: {tiny-llama: mine}}",
        "models": "mine: {source: folder, path: weights}",
    }
    plan = Plan.from_config(CONFIG, overlay=overlay(tmp_path, **files))
    assert {run.model for run in plan.runs["tiny"]} == {"mine"}
    assert {stage.model for stage in plan.study_spec("tiny").stages} == {"mine"}


def test_exponents_without_a_dot_are_numbers() -> None:
    registry, _ = load(CONFIG)
    assert isinstance(registry.recipes["tiny-lab-stacked"].training.learning_rate, float)


SUITE = "{kind: harness, benchmarks: {%s: {tasks: [arc_easy], metric: acc, uses: [{hub: x/y, split: test}]}}}"


def test_a_registry_may_be_several_files(tmp_path: Path) -> None:
    base = overlay(tmp_path, benchmarks=f"one: {SUITE % 'b1'}")
    (base / "benchmarks").mkdir()
    (base / "benchmarks/more.yaml").write_text(f"two: {SUITE % 'b2'}")
    assert {"one", "two", "mmlu", "leaderboard-v2"} <= load(CONFIG, overlay=base)[0].suites.keys()
    (base / "benchmarks/more.yaml").write_text(f"one: {SUITE % 'b2'}")
    with pytest.raises(StudyError, match=r"benchmarks/more.yaml: one: defined before"):
        load(CONFIG, overlay=base)


def test_one_mirror_serves_all_suites_that_name_none(tmp_path: Path) -> None:
    own = (SUITE % "b2").replace("kind: harness", "kind: harness, mirror: own")
    base = overlay(tmp_path, config="{studies: [tiny], mirror: raw/hub}", benchmarks=f"one: {SUITE % 'b1'}\ntwo: {own}")
    suites = load(CONFIG, overlay=base)[0].suites
    found = {name: Path(suites[name].mirror or "") for name in ("one", "two", "mmlu")}
    assert found == {"one": tmp_path / "raw/hub", "two": tmp_path / "own", "mmlu": tmp_path / "raw/hub"}


def test_shipped_suites_hold_the_published_numbers() -> None:
    suites = load(CONFIG)[0].suites
    benchmarks = {
        name: benchmark for suite in suites.values() if suite.kind == "harness" for name, benchmark in suite.benchmarks.items()
    }
    shots = {"v1-arc-challenge": 25, "v1-hellaswag": 10, "v1-mmlu": 5, "v1-truthfulqa": 0, "v1-winogrande": 5, "v1-gsm8k": 5}
    shots |= {"mmlu": 5, "mmlu-0-shot": 0, "mmlu-chat": 5, "leaderboard-bbh": 3, "leaderboard-mmlu-pro": 5, "leaderboard-math": 4}
    assert {name: benchmarks[name].num_fewshot for name in shots} == shots
    assert all(benchmark.num_items for name, benchmark in benchmarks.items() if not name.startswith("tiny"))
    assert all(benchmark.chat_template for name, benchmark in benchmarks.items() if name.startswith("leaderboard"))
    domains = benchmarks["mmlu"].groups
    parts = [domains[name] for name in ("stem", "humanities", "social_sciences", "other")]
    subjects = {task for part in parts for task in part}
    assert [len(part) for part in parts] == [19, 13, 12, 13]
    assert len(subjects) == 57
    assert set(domains["facts"]) < subjects
    assert benchmarks["mmlu-facts"].tasks == domains["facts"]
    merged = benchmarks["bbh"].families
    assert 27 - sum(map(len, merged.values())) + len(merged) == 23

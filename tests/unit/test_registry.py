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


def one_recipe(training: str, more: str = "") -> dict[str, str]:
    """An active study of one phased recipe with these training keys beside the usual ones."""
    keys = ", ".join([*(key for key in LAB[1:-1].split(", ") if key.split(":")[0] not in training), *filter(None, [training])])
    select = "{instruct: {benchmark: tiny-mmlu}, knowledge: {benchmark: tiny-mmlu}}"
    return {"recipes": f"recipes: {{mine: {{strategy: phased, training: {{{keys}}}, select: {select}{more}}}}}"} | study()


def showing(more: str) -> dict[str, str]:
    """An active study of tiny recipes with these keys."""
    files = study(recipe="tiny-lab-stacked, tiny-lab-cosine, tiny-batch-lr")
    return files | {"studies_mine": f"{files['studies_mine']}\n{more}"}


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
            + "\ntables: {t: {kind: grid, caption: c, sweep: tiny-batch-lr, rows: epochs, columns: beta1}}"
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
        claiming("first: [tiny-lab-stacked, tiny-lab-cosine], second: lab-stacked"),
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
        "recipes.yaml: mine: select: no phase of data 'tiny' after 'instruct' 'instruct'; known: knowledge, skills",
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
        {"config": "studies: [tiny]\npins: {x/y: 0abc123}", "models": "mine: {source: hub, id: x/y, revision: def}"},
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


def arms(labels: str) -> str:
    return f"{{kind: arms, caption: c, arms: {labels}}}"


def grid(rows: str, columns: str) -> str:
    return f"tables: {{t: {{kind: grid, caption: c, sweep: tiny-batch-lr, rows: {rows}, columns: {columns}}}}}"


ARMS = arms("{A: tiny-lab-stacked, B: tiny-lab-cosine}")
BROKEN = arms('{"A\\nB": tiny-lab-stacked, C: tiny-lab-cosine}')
DIRECTION = "{kind: direction, statement: s, first: tiny-lab-stacked, second: tiny-lab-cosine, margins: {tiny-mmlu: 0.1}}"
SCREEN = "screen: {benchmark: tiny-mmlu, rungs: [0.5], rule: %s%s}"
SWEEP = "sweeps: {s: {base: tiny-lab-stacked, vary: {%s}, name: '{base}-x'}}"
TRAINING = "recipes.yaml: recipes.mine.training"
FINITE = "input should be a finite number"

MISTAKES |= {
    f"training key {keys}": (one_recipe(keys), f"{TRAINING}{message}")
    for keys, message in {
        "clip_norm: .inf": ".clip_norm: a number that is greater than 0; for no clipping write 1e9 (got inf)",
        "clip_norm: 0": ".clip_norm: a number that is greater than 0; for no clipping write 1e9 (got 0)",
        "clip_norm: false": ".clip_norm: a number that is greater than 0; for no clipping write 1e9 (got False)",
        "clip_norm: .nan": f".clip_norm: {FINITE} (got nan)",
        "learning_rate: .inf": f".learning_rate: {FINITE} (got inf)",
        "epochs: .inf": f".epochs: {FINITE} (got inf)",
        "weight_decay: .inf": f".weight_decay: {FINITE} (got inf)",
        "weight_decay: -1": ".weight_decay: input should be greater than or equal to 0 (got -1)",
        "beta1: .nan": f".beta1: {FINITE} (got nan)",
        "beta1: 1": ".beta1: input should be less than 1 (got 1)",
        "beta2: 1.0": ".beta2: input should be less than 1 (got 1.0)",
        "epsilon: 0": ".epsilon: input should be greater than 0 (got 0)",
        "lora: {rank: 8, alpha: .inf}": f".lora.alpha: {FINITE} (got inf)",
        "effective_batch_size: true": ": effective_batch_size: true and false are no numbers; write the number",
        "learning_rate: true": ": learning_rate: true and false are no numbers; write the number",
        "lerning_rate: 1": ".lerning_rate: unknown key; did you mean 'learning_rate'?",
        "study: 1": ".study: unknown key; known: effective_batch_size, learning_rate, ",
    }.items()
}
MISTAKES |= {
    "weight without end": (
        {
            "recipes": one_recipe("")["recipes"].replace(
                "instruct: {benchmark: tiny-mmlu}", "instruct: {weights: {tiny-mmlu: .inf}}"
            )
        },
        f"recipes.yaml: recipes.mine.select.instruct.weights.tiny-mmlu: {FINITE} (got inf)",
    ),
    "race without end": (
        {"recipes": one_recipe("")["recipes"].replace("instruct: {", "instruct: {race: {growth: .inf}, ")},
        f"recipes.yaml: recipes.mine.select.instruct.race.growth: {FINITE} (got inf)",
    ),
    "architecture without end": (
        {
            "models": "mine: {source: scratch, world: tiny, seed: 1, architecture: {rope_theta: .inf}, "
            "pretraining: [{file: f, num_steps: 1, tokens_per_step: 1, learning_rate: 1}]}"
        },
        "models.yaml: mine.architecture.rope_theta: only text, finite numbers, true, false and null may stand here (got inf)",
    ),
    "margin of a claim without end": (
        showing(f"claims: {{c: {DIRECTION.replace('0.1', '.inf')}}}"),
        f"studies/mine.yaml: claims.c.margins.tiny-mmlu: {FINITE} (got inf)",
    ),
    "margin of a screen without end": (
        showing(SCREEN % ("{kind: margin, signal: loss, margin: .inf}", "")),
        f"studies/mine.yaml: screen.rule.margin: {FINITE} (got inf)",
    ),
    "margin of a screen missing": (
        showing(SCREEN % ("{kind: margin, signal: loss}", "")),
        "studies/mine.yaml: screen.rule.margin: missing; add this key",
    ),
    "true for a share": (
        showing(SCREEN % ("{kind: paper}", ", audit: {share: true}")),
        "studies/mine.yaml: screen.audit: share: true and false are no numbers; write the number",
    ),
    "true for a number of draws": (
        showing("replay: {benchmark: tiny-mmlu, rungs: [0.5], num_draws: true}"),
        "studies/mine.yaml: replay: num_draws: true and false are no numbers; write the number",
    ),
    "true for a seed": (
        {"studies_mine": study()["studies_mine"].replace("seed: [1]", "seed: [true]")},
        "studies/mine.yaml: runs.0: seed: true and false are no numbers; write the number",
    ),
    "true for a margin": (
        showing(f"claims: {{c: {DIRECTION.replace('0.1', 'true')}}}"),
        "studies/mine.yaml: claims.c: margins: true and false are no numbers; write the number",
    ),
    "seed of many digits": (
        {"studies_mine": study()["studies_mine"].replace("seed: [1]", f"seed: [1{'0' * 20}]")},
        "studies/mine.yaml: runs.0.seed.0: input should be less than 4294967296 (got 1",
    ),
    "name of many letters": (
        {"models": f"{'x' * 101}: {{source: folder, path: x}}"},
        "x: not a usable name; use at most 100 small letters, digits, dots and dashes, and not 'none'",
    ),
    "arms in a list": (
        showing(f"tables: {{t: {arms('[tiny-lab-stacked, tiny-lab-cosine]')}}}"),
        "studies/mine.yaml: tables.t.arms: input should be a valid dictionary (got ['tiny-lab-stacked', ",
    ),
    "one arm": (
        showing(f"tables: {{t: {arms('{A: tiny-lab-stacked}')}}}"),
        "studies/mine.yaml: tables.t.arms: dictionary should have at least 2 items",
    ),
    "wrong show": (
        showing(f"tables: {{t: {ARMS[:-1]}, show: [foo]}}}}"),
        "studies/mine.yaml: tables.t.show.0: input should be 'samples-interval' or 'optimism' (got 'foo')",
    ),
    "line break in a label": (
        showing(f"tables: {{t: {BROKEN}}}"),
        "studies/mine.yaml: tables.t.arms.A B: a label stands on one line; take out the line break",
    ),
    "claim of an arm against itself": (
        showing(f"claims: {{c: {DIRECTION.replace('cosine', 'stacked')}}}"),
        "studies/mine.yaml: claims.c: 'tiny-lab-stacked' is both arms; name another recipe for one of them",
    ),
    "claim that is pooled twice": (
        showing(f"claims: {{c: {DIRECTION}, r: {{kind: robustness, statement: s, claims: [c, c]}}}}"),
        "studies/mine.yaml: claims.r: claims: 'c' stands there twice; a claim is pooled once",
    ),
    "wrong place of a claim": (
        showing(f"claims: {{c: {DIRECTION[:-1]}, at: end}}}}"),
        "studies/mine.yaml: claims.c.at: input should be 'last', 'peak', 'held-out-peak', 'samples_seen', 'samples_spent', ",
    ),
    "grid of no training key": (
        showing(grid("lr", "learning_rate")),
        "studies/mine.yaml: tables.t.rows: no training key 'lr'; did you mean 'lora'?",
    ),
    "grid of one key": (
        showing(grid("learning_rate", "learning_rate")),
        "studies/mine.yaml: tables.t.columns: learning_rate is in the rows; name another key that the sweep varies",
    ),
    "grid of a key that is not varied": (
        showing(grid("epochs", "learning_rate")),
        "studies/mine.yaml: tables.t: 'tiny-lab-stacked-bs16-lr0.0007' and 'tiny-lab-stacked-bs64-lr0.0007' share epochs and",
    ),
    "table with a blank in its name": (showing(f"tables: {{my table: {ARMS}}}"), "mine.yaml: tables.my table: not a usable name"),
    "table outside its folder": (showing(f"tables: {{../x: {ARMS}}}"), "mine.yaml: tables.../x: not a usable name"),
    "figure in a folder": (
        showing("figures: {a/b: {kind: scores, caption: c, arms: {A: tiny-lab-stacked}}}"),
        "studies/mine.yaml: figures.a/b: not a usable name",
    ),
    "claim with a capital": (showing(f"claims: {{C: {DIRECTION}}}"), "studies/mine.yaml: claims.C: not a usable name"),
    "study with a blank in its name": ({"studies_my study": study()["studies_mine"]}, "my study.yaml: my study: not a usable name"),
    "sweep over nothing": (
        {"recipes": SWEEP % "learning_rate: []"},
        "recipes.yaml: sweeps.s.vary.learning_rate: list should have at least 1 item",
    ),
    "selection after the last phase": (
        {"recipes": one_recipe("")["recipes"].replace("select: {", "select: {skills: {benchmark: tiny-mmlu}, ")} | study(),
        "recipes.yaml: mine: select: 'skills' is the last phase of data 'tiny'; nothing follows it, remove it",
    ),
    "override of a phase that is not there": (
        one_recipe("", ", stages: {foo: {learning_rate: 1}}"),
        "recipes.yaml: mine: stages: no phase of data 'tiny' 'foo'; known: instruct, knowledge, skills",
    ),
    "key that another file has": ({"config": "study: [tiny]"}, "config.yaml: study: unknown key; did you mean 'studies'?"),
    "key that another rule has": (
        showing(SCREEN % ("{kind: paper, signal: loss}", "")),
        "studies/mine.yaml: screen.rule.signal: unknown key; known: kind, keep",
    ),
    "source of a study's key that is not there": (
        showing("sources: {paper: [zz]}"),
        "studies/mine.yaml: sources: zz is no key of this definition",
    ),
    "pin that is no commit": (
        {"config": "studies: [tiny]\npins: {ibm-granite/granite-7b-base: main}"},
        "config.yaml: pins.ibm-granite/granite-7b-base: no commit; name one by 7 to 40 of its hexadecimal digits (got 'main')",
    ),
    "brackets without end": ({"models": "[" * 5000}, "models.yaml: nested too deeply; use fewer brackets"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_ends_in_one_line(mistake: str, tmp_path: Path) -> None:
    files, message = MISTAKES[mistake]
    with pytest.raises(StudyError) as caught:
        Plan.from_config(CONFIG, overlay=overlay(tmp_path, **files))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_file_in_another_encoding_ends_in_one_line(encoding: str, tmp_path: Path) -> None:
    overlay(tmp_path, **study())
    (tmp_path / "studies/mine.yaml").write_bytes("question: café".encode(encoding))
    with pytest.raises(StudyError, match=f"^{tmp_path}/studies/mine.yaml: not in UTF-8; save it as UTF-8$"):
        load(CONFIG, overlay=tmp_path)


@pytest.mark.parametrize("mistake", ["misspelt model", "batch exceeds the data", "claim of an arm against itself"])
def test_what_does_not_go_together_names_the_file_that_the_user_has(mistake: str, tmp_path: Path) -> None:
    files, message = MISTAKES[mistake]
    with pytest.raises(StudyError) as caught:
        Plan.from_config(CONFIG, overlay=overlay(tmp_path, **files))
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_numbers_may_be_written_in_any_way(tmp_path: Path) -> None:
    """A whole number for any, a power of ten for a whole one, a bound that is allowed."""
    written = one_recipe("learning_rate: 1, effective_batch_size: 1e1, beta1: 0, weight_decay: 0, clip_norm: 1e9, compile: true")
    training = Plan.from_config(CONFIG, overlay=overlay(tmp_path, **written)).registry.recipes["mine"].training
    found = (training.learning_rate, training.effective_batch_size, training.beta1, training.clip_norm, training.compile)
    assert found == (1.0, 10, 0.0, 1e9, True)


def test_a_selection_may_end_one_of_several_data_sets(tmp_path: Path) -> None:
    phase = "{sources: [{from: {path: chats.jsonl}, format: prompt-response}], num_samples: 32}"
    files = one_recipe("") | {"data": f"short: {{phases: {{instruct: {phase}, knowledge: {phase}}}}}"}
    (tmp_path / "chats.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 32)
    both = overlay(tmp_path, **files | study(data="tiny, short"))
    assert {run.data for run in Plan.from_config(CONFIG, overlay=both).runs["mine"]} == {"tiny", "short"}
    with pytest.raises(StudyError, match="select: 'knowledge' is the last phase of data 'short'; nothing follows it"):
        Plan.from_config(CONFIG, overlay=overlay(tmp_path, **files | study(data="short")))


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
        f"{tmp_path}/models/hub.yaml: mine.revision: not stated; choose a commit on the hub, and put `pins: {{x/y: COMMIT}}` into "
        "config.yaml of your overlay"
    ]
    with pytest.raises(StudyError, match=r"models/hub.yaml: yours: defined before"):
        load(CONFIG, overlay=overlay(tmp_path, **{"models/hub": "yours: {source: folder, path: w}"}))


def test_a_pin_is_the_revision(tmp_path: Path) -> None:
    files = {"models": "mine: {source: hub, id: x/y}"} | study(model="mine", recipe="tiny-lab-stacked")
    pinned = files | {"config": "studies: [mine]\npins: {x/y: 0abc123}"}
    plan = Plan.from_config(CONFIG, overlay=overlay(tmp_path, **pinned))
    model = plan.registry.models["mine"]
    assert isinstance(model, HubModel)
    assert model.revision == "0abc123"
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

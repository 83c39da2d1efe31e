"""From runs to stages, checkpoints and specs: the whole static DAG as plain values, known before anything runs."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from sftstudy import config, spec
from sftstudy.config import NO_NAME, Training
from sftstudy.errors import StudyError
from sftstudy.hashes import sha256_of
from sftstudy.locate import check_file, check_folder, check_local, files_below
from sftstudy.paths import BASE_CKPT, BASE_STAGE, Layout, base_answers, race_stem, score_stem
from sftstudy.registry import Registry, known, load, stage_training
from sftstudy.screen import rung_name, rung_step
from sftstudy.screens import Screens
from sftstudy.semantics import PINNED_MAJORS
from sftstudy.settings import settings_of
from sftstudy.study import (
    Run,
    check_no_leak,
    definition_files,
    expand_recipe,
    files_of,
    judge_models,
    published_tables,
    quoted_numbers,
    runs_of,
)

SETTINGS = {"overlay": "a folder", "studies": "studies with commas between"}
"""What `--config` may hold, and what each of them is; the rest stands in files."""


def places(training: Training, num_samples: int) -> tuple[int, list[spec.Place]]:
    """Steps of a stage and the places of its checkpoints, from the rows of its mixture.

    The budget is `epochs` x rows, or `budget_samples`; a remainder smaller than a batch is dropped: steps = floor(budget / batch).
    A checkpoint is saved at the first step that reaches i/N of what all steps see, or every floor(`save_every` / batch) steps (as
    in the paper's code) and at the end.
    Raises StudyError if the batch exceeds the rows or `save_every`, or if there are more checkpoints than steps.
    """
    batch = training.effective_batch_size
    if batch > num_samples:
        raise StudyError(f"effective_batch_size {batch} exceeds the {num_samples} samples of the mixture; choose a smaller batch")
    # the epsilon keeps e.g. 0.1 epochs x 30 rows at 3 samples
    budget = training.budget_samples or math.floor(num_samples * (training.epochs or 0) + 1e-6)
    num_steps = budget // batch
    if training.num_checkpoints:
        steps = [math.ceil(i * num_steps / training.num_checkpoints) for i in range(1, training.num_checkpoints + 1)]
    else:
        every = (training.save_every or 0) // batch
        if every == 0:
            raise StudyError(f"save_every {training.save_every} is less than a batch of {batch}; save less often")
        steps = sorted({*range(every, num_steps + 1, every), num_steps})
    if num_steps == 0 or len(set(steps)) < len(steps) or steps[0] == 0:
        raise StudyError(f"{num_steps} steps are too few for its checkpoints; raise the budget, or ask for fewer checkpoints")
    if (training.warmup_steps or 0) >= num_steps:
        raise StudyError(f"warmup_steps {training.warmup_steps} never end within {num_steps} steps; warm up for fewer")
    width = max(2, len(str(len(steps))))
    saves = [spec.Place(ckpt=f"ckpt{i:0{width}d}", step=step, num_samples=step * batch) for i, step in enumerate(steps, start=1)]
    return num_steps, saves


@dataclass(frozen=True, eq=False)
class Plan:
    """The active studies over a registry. Every spec of every job can be asked for; only config is read from disk."""

    registry: Registry
    studies: list[str]
    folder: Path
    layout: Layout = field(default_factory=Layout)

    @classmethod
    def from_config(cls, folder: Path, *, overlay: Path | None = None, studies: list[str] | None = None) -> Plan:
        """Plan of the studies that config names active, or of `studies`. Raises StudyError for whatever the user got wrong."""
        registry, active = load(folder, overlay=overlay)
        for name in studies or []:
            known(name, registry.studies, what="study", where="--config studies")
        plan = cls(registry, studies or active, folder)
        _ = plan.specs  # making them meets every mistake
        return plan

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], *, folder: Path = Path("config")) -> Plan:
        """Plan of a checkout under Snakemake's `--config` settings. Raises StudyError if one is not in SETTINGS, or empty."""
        for key, value in settings.items():
            known(key, SETTINGS, what="setting", where="--config")
            if value in (None, ""):
                raise StudyError(f"--config {key}=: is empty; name {SETTINGS[key]}, or leave it out")
        given = {key: str(value) for key, value in settings.items()}
        return cls.from_config(
            folder,
            overlay=Path(given["overlay"]) if "overlay" in given else None,
            studies=given["studies"].split(",") if "studies" in given else None,
        )

    # --- runs and stages

    @cached_property
    def runs(self) -> dict[str, list[Run]]:
        """Study -> its runs."""
        return {name: runs_of(name, self.registry) for name in self.studies}

    @cached_property
    def stages(self) -> dict[Path, spec.StageSpec]:
        """Stage folder under results -> spec, for all stages of all active studies, base models first, each once."""
        found: dict[Path, spec.StageSpec] = {}
        for runs in self.runs.values():
            for run in runs:
                for stage in self.stages_of(run):
                    found.setdefault(self.records_of(stage), stage)
        return found

    def stages_of(self, run: Run) -> list[spec.StageSpec]:
        """The untouched base of a run, and its stages in order, after those of other recipes that it starts from."""
        return [self._base(run.model), *self._stages(run)]

    def records_of(self, stage: spec.StageSpec) -> Path:
        """Where a stage's records lie."""
        return self.layout.stage_results(stage.model, stage.data, stage.recipe, stage.seed, stage.stage)

    def _base(self, model: str) -> spec.StageSpec:
        return spec.StageSpec(
            model=model,
            data=NO_NAME,
            recipe=NO_NAME,
            seed=0,
            stage=BASE_STAGE,
            model_hash=spec.spec_hash(self.model_spec(model)),
            checkpoints=[spec.Place(ckpt=BASE_CKPT, step=0, num_samples=0)],
        )

    def _last_phases(self, recipe: str) -> set[str]:
        """The phases with which the data sets end on which a recipe is run."""
        data = {run.data for runs in self.runs.values() for run in runs if run.recipe == recipe}
        return {list(self.registry.data[name].phases)[-1] for name in data}

    @cache
    def _stages(self, run: Run, until: str | None = None) -> list[spec.StageSpec]:
        """A run's stages in order, after those of other recipes that it starts from; of a phased run perhaps only up to a phase."""
        recipe, phases = self.registry.recipes[run.recipe], list(self.registry.data[run.data].phases)
        where = self.registry.where("recipes", run.recipe)
        first = self._first_phase(run)
        scope = f"phase of data {run.data!r}" + (f" after {phases[first - 1]!r}" if first else "")
        for phase in recipe.stages:
            known(phase, phases[first:], what=scope, where=f"{where}: stages")
        for phase in recipe.select:
            is_last = known(phase, phases[first:], what=scope, where=f"{where}: select") == phases[-1]
            if is_last and self._last_phases(run.recipe) <= {phase}:
                raise StudyError(
                    f"{where}: select: {phase!r} is the last phase of data {run.data!r}; nothing follows it, remove it"
                )
        stages: list[spec.StageSpec] = []
        if start := recipe.starts_from:
            stages = self._stages(Run(run.model, run.data, start.recipe, run.seed), start.phase).copy()
        if recipe.strategy == "stacked":
            shares = [(phase, 1.0) for phase in phases[first:]]
            parent = self._parent(stages[-1], phases[first - 1]) if stages else None
            return [*stages, self._stage(run, f"{first + 1:02d}-stacked", shares, recipe.training, parent=parent)]
        last = phases.index(until) if until else len(phases) - 1
        for number, phase in list(enumerate(phases))[first : last + 1]:
            training = stage_training(recipe, phase, where=where)
            shares = [(phase, 1.0)] + [(earlier, training.replay) for earlier in phases[:number] if training.replay]
            parent = self._parent(stages[-1], phases[number - 1]) if stages else None
            stages.append(self._stage(run, f"{number + 1:02d}-{phase}", shares, training, parent=parent))
        return stages

    def _first_phase(self, run: Run) -> int:
        """Number of the first phase that a run's own stages train. Raises StudyError if there is none, or nothing to start from."""
        start = self.registry.recipes[run.recipe].starts_from
        if start is None:
            return 0
        phases = list(self.registry.data[run.data].phases)
        where = f"{self.registry.where('recipes', run.recipe)}: starts_from.phase"
        known(start.phase, phases, what=f"phase of data {run.data!r}", where=where)
        number = phases.index(start.phase)
        if number == len(phases) - 1:
            raise StudyError(f"{where}: {start.phase!r} is the last phase of data {run.data!r}; name one that others follow")
        if number < self._first_phase(Run(run.model, run.data, start.recipe, run.seed)):
            raise StudyError(f"{where}: {start.recipe!r} itself starts after {start.phase!r}; name the recipe that trains it")
        return number + 1

    def _stage(
        self, run: Run, stage: str, shares: list[tuple[str, float]], training: Training, *, parent: spec.Parent | None
    ) -> spec.StageSpec:
        definition = self.registry.data[run.data]
        mixture = [
            spec.MixPart(
                phase=phase,
                spec_hash=spec.spec_hash(self.phase_spec(run.model, run.data, phase)),
                num_samples=round(share * definition.phases[phase].num_samples),
                available=definition.phases[phase].num_samples,
            )
            for phase, share in shares
        ]
        try:
            num_steps, checkpoints = places(training, sum(part.num_samples for part in mixture))
        except StudyError as error:
            where = self.registry.where("recipes", run.recipe)
            raise StudyError(f"{where}: with data {run.data!r}, stage {stage}: {error}") from None
        return spec.StageSpec(
            model=run.model,
            data=run.data,
            recipe=run.recipe,
            seed=run.seed,
            stage=stage,
            model_hash=spec.spec_hash(self.model_spec(run.model)),
            mixture=mixture,
            parent=parent,
            training=training,
            num_steps=num_steps,
            checkpoints=checkpoints,
        )

    def _parent(self, stage: spec.StageSpec, phase: str) -> spec.Parent:
        where = f"{self.registry.where('recipes', stage.recipe)}: select.{phase}"
        selection = self.registry.recipes[stage.recipe].select.get(phase)
        if selection is None:
            raise StudyError(
                f"{where}: missing; say how this phase's checkpoint is chosen, such as {{benchmark: mmlu, rule: best}}"
            )
        for benchmark in selection.benchmarks:
            known(benchmark, self.registry.benchmarks, what="benchmark", where=where)
            if selection.race and isinstance(self.registry.suites[self.registry.benchmarks[benchmark]], config.MtBenchSuite):
                raise StudyError(f"{where}.race: {benchmark} is judged, and only benchmarks of lm-eval race; remove race")
        stage_hash = spec.spec_hash(stage)
        suites = [self.suite_spec(suite) for suite in self.selection_suites(selection)]
        return spec.Parent(
            recipe=stage.recipe,
            stage=stage.stage,
            spec_hash=stage_hash,
            selection=selection,
            selection_hash=spec.selection_hash(stage_hash, suites, selection),
        )

    def parent_of(self, stage: spec.StageSpec) -> Path | None:
        """Folder of the stage that a stage continues from; None if it starts from the base."""
        if stage.parent is None:
            return None
        return self.layout.stage_results(stage.model, stage.data, stage.parent.recipe, stage.seed, stage.parent.stage)

    @cached_property
    def children(self) -> dict[Path, list[Path]]:
        """Stage folder -> folders of the stages that continue from it, all of them from the same checkpoint."""
        found: dict[Path, list[Path]] = {}
        for folder, stage in self.stages.items():
            if parent := self.parent_of(stage):
                found.setdefault(parent, []).append(folder)
        return found

    def selection_of(self, stage: spec.StageSpec) -> config.Selection | None:
        """How the checkpoint is chosen that other stages start from; None if no planned one does."""
        children = self.children.get(self.records_of(stage))
        parent = self.stages[children[0]].parent if children else None
        return parent.selection if parent else None

    def race_of(self, stage: spec.StageSpec, suite: str) -> Path | None:
        """Record of the race that drops some of a stage's checkpoints on a benchmark of a suite; None if there is none."""
        selection = self.selection_of(stage)
        raced = selection and selection.race and suite in self.selection_suites(selection)
        return race_stem(self.records_of(stage)).with_suffix(".json") if raced else None

    def race_hash(self, stage: spec.StageSpec, suite: str) -> str | None:
        """Spec hash of that record."""
        selection = self.selection_of(stage) if self.race_of(stage, suite) else None
        return spec.race_hash(spec.spec_hash(stage), self.suite_spec(suite), selection) if selection else None

    def score_hashes(self, stage: spec.StageSpec, suites: Iterable[str]) -> dict[str, dict[str, str]]:
        """Suite -> part -> spec hash of its score record."""
        stage_hash = spec.spec_hash(stage)
        return {
            suite: {
                part: spec.score_hash(stage_hash, self._suite_hash(suite), ckpts, race=self.race_hash(stage, suite))
                for part, ckpts in self.parts(stage, suite).items()
            }
            for suite in suites
        }

    @cache
    def _suite_hash(self, suite: str) -> str:
        return spec.spec_hash(self.suite_spec(suite))

    def selection_suites(self, selection: config.Selection) -> list[str]:
        """Suites that score the benchmarks of a selection, each once."""
        return list(dict.fromkeys(self.registry.benchmarks[benchmark] for benchmark in selection.benchmarks))

    def removable(self, stage: spec.StageSpec) -> list[str]:
        """Checkpoints whose weights go once the planned scores exist; if other stages start from one of them, that one stays."""
        names, settings = [place.ckpt for place in stage.checkpoints], self.registry.settings
        kept = {recipe for name in settings.keep for recipe in expand_recipe(name, self.registry)}
        if stage.training is None or settings.keep_weights == "all" or stage.recipe in kept:
            return []
        return names if self.records_of(stage) in self.children else names[:-1]

    def suites_of(self, stage: spec.StageSpec) -> list[str]:
        """Suites that score a stage: those of the studies that have its run, and the one that selects its checkpoint."""
        return self._suites[self.records_of(stage)]

    @cached_property
    def _suites(self) -> dict[Path, list[str]]:
        """Stage folder -> its suites. Raises StudyError if a stage is trained on the very items that score it."""
        found = {folder: self.wanted_by(self.studies, stage) for folder, stage in self.stages.items()}
        for data, suites in sorted({(stage.data, tuple(found[folder])) for folder, stage in self.stages.items() if stage.training}):
            check_no_leak(self.registry, data=data, suites=set(suites))
        return found

    def wanted_by(self, studies: Iterable[str], stage: spec.StageSpec) -> list[str]:
        """Suites that score a stage for some studies alone, the one that selects its checkpoint included."""
        benchmarks = {
            benchmark for name in studies if self._has(name, stage) for benchmark in self.registry.studies[name].benchmarks
        }
        if selection := self.selection_of(stage):
            benchmarks.update(selection.benchmarks)
        suite_of = self.registry.benchmarks
        return sorted({suite_of[benchmark] for benchmark in benchmarks})

    def _has(self, study: str, stage: spec.StageSpec) -> bool:
        """Whether a study's tables need a stage: it belongs to a run of the study, or is the base of one."""
        if stage.stage == BASE_STAGE:
            return any(run.model == stage.model for run in self.runs[study])
        return Run(stage.model, stage.data, stage.recipe, stage.seed) in self._run_sets[study]

    @cached_property
    def _run_sets(self) -> dict[str, set[Run]]:
        return {name: set(runs) for name, runs in self.runs.items()}

    def score_stems(self, stage: spec.StageSpec, suite: str) -> list[Path]:
        """Stems of a suite's score records for all parts of a stage."""
        return [score_stem(self.records_of(stage), suite, part) for part in self.parts(stage, suite)]

    def judged_with(self, stage: spec.StageSpec, suite: str) -> list[Path]:
        """What judging a stage's answers reads besides them: records of judges' weights, and the base model's answers."""
        definition = self.registry.suites[suite]
        found = [self.layout.model_record(model) for model in judge_models(definition)]
        if isinstance(definition, config.MtBenchSuite) and definition.against == "base" and stage.stage != BASE_STAGE:
            found.append(base_answers(self.records_of(self._base(stage.model)), suite))
        return found

    def parts(self, stage: spec.StageSpec, suite: str) -> dict[str, list[str]]:
        """Blocks of the stage's checkpoints that one job scores."""
        return spec.parts([place.ckpt for place in stage.checkpoints], self.registry.suites[suite].checkpoints_per_job)

    @cached_property
    def screens(self) -> Screens:
        """Which stages wait at which rungs for a decision, and who decides."""
        specs = {name: self._screen_spec(name, screen) for name in self.studies if (screen := self.registry.studies[name].screen)}
        runs = {run for name in specs for run in self.runs[name]}
        always = {self.records_of(self._own_stages(run)[0]): self._always_kept_by(run) for run in sorted(runs)}
        return Screens(specs, always, self.layout)

    def steps_of(self, stage: spec.StageSpec, rung: float | None) -> range:
        """Updates, counted from 0, that the job of a stage does up to a rung, or with None to its end.

        A stage that may be stopped goes on from the rung before. One that may not is trained at once: its rungs are read off.
        """
        folder = self.records_of(stage)
        if not self.screens.may_stop(folder):
            return range(0 if rung else stage.num_steps)
        before = self.screens.before(folder, rung)
        first, last = (rung_step(share, num_steps=stage.num_steps) if share else 0 for share in (before, rung))
        return range(first, last if rung else stage.num_steps)

    def rungs_of(self, stage: spec.StageSpec) -> list[float | None]:
        """The jobs that train a stage one after the other: up to each rung at which it waits, and None, to its end."""
        folder = self.records_of(stage)
        return [*(self.screens.rungs[folder] if self.screens.may_stop(folder) else []), None]

    def _screen_spec(self, name: str, screen: config.Screen) -> spec.ScreenSpec:
        stages = []
        for run in self.runs[name]:
            stage = self._own_stages(run)[0]
            steps = [0, *(rung_step(rung, num_steps=stage.num_steps) for rung in screen.rungs), stage.num_steps]
            if sorted(set(steps)) != steps:
                raise StudyError(
                    f"{self.registry.files['studies'][name]}: screen.rungs: {run.recipe} has {stage.num_steps} steps in its first "
                    "stage, so that two of them, or one and the end, fall together; give fewer rungs, further apart"
                )
            factors = stage.training.model_dump() if stage.training else {}
            stages.append(
                spec.ScreenedStage(
                    **stage.model_dump(include={"model", "data", "recipe", "seed", "stage", "num_steps"}),
                    spec_hash=spec.spec_hash(stage),
                    group=[run.model, run.data, *(str(factors[key]) for key in screen.group_by)],
                )
            )
        return spec.ScreenSpec(study=name, screen=screen, stages=stages)

    def _own_stages(self, run: Run) -> list[spec.StageSpec]:
        """The stages that a run's own recipe trains."""
        return [stage for stage in self._stages(run) if stage.recipe == run.recipe]

    def _always_kept_by(self, run: Run) -> list[str]:
        """Active studies that need a run whatever a screen says: they have it and no screen, or other recipes start from it."""
        unscreened = [name for name in self.studies if not self.registry.studies[name].screen and run in self._run_sets[name]]
        folders = [self.records_of(stage) for stage in self._own_stages(run)]
        started = {self.stages[child].recipe for folder in folders for child in self.children.get(folder, [])} - {run.recipe}
        return unscreened + [
            name for name in self.studies if name not in unscreened and started & {other.recipe for other in self.runs[name]}
        ]

    def may_stop(self, stage: spec.StageSpec) -> bool:
        """Whether a screen may stop a stage, or stop one that it continues from."""
        folder, parent = self.records_of(stage), self.parent_of(stage)
        return self.screens.may_stop(folder) or (parent is not None and self.may_stop(self.stages[parent]))

    @cached_property
    def retention_records(self) -> list[Path]:
        """Records of the stages some of whose weights may go."""
        return [folder / "retention.json" for folder, stage in self.stages.items() if self.removable(stage)]

    # --- specs

    @cached_property
    def specs(self) -> dict[Path, spec.Spec]:
        """Folder under results -> the spec whose `spec.yaml` lies there."""
        found: dict[Path, spec.Spec] = dict(self.stages)
        for stage in self.stages.values():
            found[self.layout.model_record(stage.model).parent] = self.model_spec(stage.model)
            if stage.mixture:
                found[self.layout.data_record(stage.data).parent] = self.data_spec(stage.data)
                found[self.layout.overlap_record(stage.data).parent] = self.overlap_spec(stage.data)
            for part in stage.mixture:
                folder = self.layout.phase_record(stage.model, stage.data, part.phase).parent
                found[folder] = self.phase_spec(stage.model, stage.data, part.phase)
            for suite in self.suites_of(stage):
                found[self.layout.suite_spec(suite).parent] = self.suite_spec(suite)
                for model in judge_models(self.registry.suites[suite]):
                    found[self.layout.model_record(model).parent] = self.model_spec(model)
        for world in sorted({world for value in list(found.values()) for world in self.worlds_of(value)}):
            found[self.layout.world_record(world).parent] = self.world_spec(world)
        for name in self.studies:
            found[self.layout.study_folder(name)] = self.study_spec(name)
        for name, screen in self.screens.specs.items():
            found[self.layout.screens(name)] = screen
        return found

    def spec_in(self, folder: Path) -> spec.Spec:
        """The spec whose `spec.yaml` lies in a folder. Raises StudyError if nothing is planned there."""
        if folder in self.specs:
            return self.specs[folder]
        near = difflib.get_close_matches(str(folder), map(str, self.specs), n=1)
        raise StudyError(
            f"{folder}: is not in the plan; {f'{near[0]} is; ' if near else ''}what other studies plan needs "
            "`--config studies=NAME`, and `overlay=FOLDER` where an overlay defines it"
        )

    @cached_property
    def fetched(self) -> list[Path]:
        """Records of models that are not made here, and of data sets and suites of the hub: to make them is to download."""

        def of_hub(places: Iterable[config.Location]) -> bool:
            return any(isinstance(place, config.HubSplit) for place in places)

        found = []
        for folder, value in self.specs.items():
            match value:
                case spec.ModelSpec() if not isinstance(value.model, config.ScratchModel):
                    found.append(folder / "model.json")
                case spec.DataSpec() if of_hub(source.location for phase in value.phases.values() for source in phase.sources):
                    found.append(folder / "validation.json")
                case spec.SuiteSpec(suite=config.HarnessSuite()) if of_hub(files_of(value.suite).values()):
                    found.append(self.layout.suite_record(value.name))
        return found

    def local_files(self, value: spec.Spec) -> list[Path]:
        """Files of the user's that the job of a spec reads and that are here: what is newer than the job's records is read again.

        Files of the shipped config are left out: they are known by their content.
        """
        places: list[config.Location] = []
        if isinstance(value, spec.PhaseSpec):
            places = [source.location for source in value.definition.sources]
            places += [place for benchmark in value.overlap.values() for place in benchmark.uses]
        elif isinstance(value, spec.DataSpec | spec.OverlapSpec):
            places = [source.location for phase in value.phases.values() for source in phase.sources]
            if isinstance(value, spec.OverlapSpec):
                places += [place for benchmark in value.benchmarks.values() for place in benchmark.uses]
        elif isinstance(value, spec.SuiteSpec):
            places = list(files_of(value.suite).values())
        paths = [file for place in places if isinstance(place, config.LocalFile) for file in files_below(Path(place.path))]
        if isinstance(value, spec.ModelSpec) and isinstance(value.model, config.FolderModel):
            paths = [Path(value.model.path) / "config.json"]
        return [path for path in paths if path.exists() and not path.is_relative_to(self.folder)]

    def worlds_of(self, value: spec.Spec) -> list[str]:
        """Generated worlds whose files the job of a spec reads."""
        if isinstance(value, spec.DataSpec | spec.OverlapSpec | spec.PhaseSpec | spec.SuiteSpec):
            return sorted(value.world_hashes)
        if isinstance(value, spec.ModelSpec) and isinstance(value.model, config.ScratchModel):
            return [value.model.world]
        return []

    def world_spec(self, world: str) -> spec.WorldSpec:
        """Spec of a generated world."""
        return spec.WorldSpec(name=world, world=self.registry.worlds[world])

    @cache
    def model_spec(self, model: str) -> spec.ModelSpec:
        """Spec of a base model."""
        definition = self.registry.models[model]
        world_hash = None
        if isinstance(definition, config.ScratchModel):
            world_hash = self._world_hash(definition.world, where=f"{self.registry.where('models', model)}.world")
        return spec.ModelSpec(name=model, model=definition, world_hash=world_hash)

    @cache
    def data_spec(self, data: str) -> spec.DataSpec:
        """Spec of a data set's validation."""
        phases = self.registry.data[data].phases
        sources = [source.location for definition in phases.values() for source in definition.sources]
        where = self.registry.where("data", data)
        return spec.DataSpec(name=data, phases=phases, world_hashes=self._world_hashes(sources, where=where))

    @cache
    def overlap_spec(self, data: str) -> spec.OverlapSpec:
        """Spec of the comparison of a data set with all benchmarks of the suites that score its runs."""
        suites = {suite for stage in self.stages.values() if stage.data == data for suite in self.suites_of(stage)}
        benchmarks = {name: self.item_places(name) for name, suite in sorted(self.registry.benchmarks.items()) if suite in suites}
        phases = self.registry.data[data].phases
        sources = [source.location for definition in phases.values() for source in definition.sources]
        places = [place for benchmark in benchmarks.values() for place in benchmark.uses]
        where = f"{self.registry.where('data', data)}, and the benchmarks that score it"
        return spec.OverlapSpec(
            data=data, phases=phases, benchmarks=benchmarks, world_hashes=self._world_hashes(sources + places, where=where)
        )

    def item_places(self, benchmark: str) -> spec.ItemPlaces:
        """Where a benchmark's items lie."""
        suite = self.registry.suites[self.registry.benchmarks[benchmark]]
        if isinstance(suite, config.MtBenchSuite):
            return spec.ItemPlaces(uses=[suite.questions], question_ids=suite.question_ids)
        return spec.ItemPlaces(uses=suite.benchmarks[benchmark].uses, mirror=suite.mirror)

    @cache
    def phase_spec(self, model: str, data: str, phase: str) -> spec.PhaseSpec:
        """Spec of a phase prepared for a model."""
        definition = self.registry.data[data]
        where = f"{self.registry.where('data', data)}.drop_overlap_with"
        names = [known(name, self.registry.benchmarks, what="benchmark", where=where) for name in definition.drop_overlap_with]
        items = {name: self.item_places(name) for name in names}
        sources = [source.location for source in definition.phases[phase].sources]
        places = [place for benchmark in items.values() for place in benchmark.uses]
        return spec.PhaseSpec(
            model=model,
            data=data,
            phase=phase,
            definition=definition.phases[phase],
            **{name: getattr(definition, name) for name in config.Cleaning.model_fields},
            overlap=items,
            model_hash=spec.spec_hash(self.model_spec(model)),
            world_hashes=self._world_hashes(sources + places, where=f"{self.registry.where('data', data)}.phases.{phase}"),
            libraries=PINNED_MAJORS,
        )

    @cache
    def suite_spec(self, suite: str) -> spec.SuiteSpec:
        """Spec of a suite of benchmarks."""
        definition, where = self.registry.suites[suite], self.registry.where("benchmarks", suite)
        return spec.SuiteSpec(
            name=suite,
            suite=definition,
            world_hashes=self._world_hashes(list(files_of(definition).values()), where=where),
            model_hashes={
                model: spec.spec_hash(self.model_spec(known(model, self.registry.models, what="model", where=f"{where}.judges")))
                for model in judge_models(definition)
            },
            definitions={f"{path.parent.name}/{path.name}": sha256_of(path) for path in definition_files(definition, self.folder)},
        )

    def study_spec(self, name: str) -> spec.StudySpec:
        """Spec of a study's tables."""
        study, recipes = self.registry.studies[name], {run.recipe for run in self.runs[name]}
        names = sorted({self.registry.benchmarks[benchmark] for benchmark in study.benchmarks})
        stages = [self._planned(stage, names) for stage in self.stages.values() if self._has(name, stage)]
        return spec.StudySpec(
            name=name,
            question=study.question,
            stages=stages,
            benchmarks={benchmark: self._planned_benchmark(benchmark) for benchmark in study.benchmarks},
            sweeps={sweep: cells for sweep, cells in self.registry.sweeps.items() if recipes >= set(cells)},
            tables=study.tables,
            figures=study.figures,
            screen=self._planned_screen(name),
            replay=study.replay,
            settings=settings_of(name, self.runs[name], self.registry),
            published={table: self.registry.published[table] for table in published_tables(study)},
            quoted={number: self.registry.quoted[number] for number in quoted_numbers(study)},
            claims=study.claims,
            advice={
                key: spec.PaperAdvice(**said.model_dump(), numbers=[self.registry.quoted[number] for number in said.quoted])
                for key, said in self.registry.advice.items()
            },
        )

    def _planned(self, stage: spec.StageSpec, suites: list[str]) -> spec.PlannedStage:
        return spec.PlannedStage(
            model=stage.model,
            data=stage.data,
            recipe=stage.recipe,
            seed=stage.seed,
            stage=stage.stage,
            spec_hash=spec.spec_hash(stage),
            last=self.records_of(stage) not in self.children,
            num_steps=stage.num_steps,
            factors=stage.training.model_dump() if stage.training else {},
            scores=self.score_hashes(stage, suites),
        )

    def _planned_screen(self, study: str) -> spec.PlannedScreen | None:
        found = self.screens.specs.get(study)
        if found is None:
            return None
        decisions = {rung: spec.decision_hash(found, rung) for rung in map(rung_name, found.screen.rungs)}
        return spec.PlannedScreen(**found.screen.model_dump(), decisions=decisions)

    def _planned_benchmark(self, name: str) -> spec.PlannedBenchmark:
        suite = self.registry.benchmarks[name]
        return spec.planned_benchmark(suite, self.registry.suites[suite], name)

    def _world_hash(self, world: str, *, where: str) -> str:
        return spec.spec_hash(self.world_spec(known(world, self.registry.worlds, what="world", where=where)))

    def _world_hashes(self, locations: Iterable[config.Location], *, where: str) -> dict[str, str]:
        worlds = sorted({place.world for place in locations if isinstance(place, config.WorldFile)})
        return {world: self._world_hash(world, where=where) for world in worlds}

    # --- inputs

    @cached_property
    def missing_inputs(self) -> list[str]:
        """A line for each spec one of whose inputs a planned job will want and does not find, with file, key and remedy.

        Inputs are files and folders that config names on this disk or in an installed package, and revisions of hub models; worlds
        and files of the hub are fetched by jobs. What already has its records wants no input any more, so that copied results can
        be adopted without the raw data.
        """
        lines = []
        for folder, value in self.specs.items():
            try:
                self._check_inputs(folder, value)
            except StudyError as error:
                lines.append(str(error))
        return lines

    def _check_inputs(self, folder: Path, value: spec.Spec) -> None:
        match value:
            case spec.ModelSpec() if not (folder / "model.json").exists():
                _check_model(value.model, where=self.registry.where("models", value.name))
            case spec.PhaseSpec() if not (folder / "phase.json").exists():
                where = f"{self.registry.where('data', value.data)}.phases.{value.phase}"
                for number, source in enumerate(value.definition.sources):
                    check_local(source.location, where=f"{where}.sources.{number}.from", folder=source.format == "taxonomy")
            case spec.SuiteSpec() if not self._is_scored(value.name):
                _check_suite(value.suite, where=self.registry.where("benchmarks", value.name))

    def _is_scored(self, suite: str) -> bool:
        stages = [stage for stage in self.stages.values() if suite in self.suites_of(stage)]
        return all(Path(f"{stem}.json").exists() for stage in stages for stem in self.score_stems(stage, suite))


def _check_model(model: config.Model, *, where: str) -> None:
    if isinstance(model, config.HubModel) and model.revision is None:
        pin = f"pins: {{{model.id}: COMMIT}}"
        raise StudyError(
            f"{where}.revision: not stated; choose a commit on the hub, and put `{pin}` into config.yaml of your overlay"
        )
    if isinstance(model, config.FolderModel):
        check_folder(Path(model.path), where=f"{where}.path")
    elif isinstance(model, config.GgufModel):
        check_local(config.PackageFile(package=model.package, file=model.file), where=where)


def _check_suite(suite: config.Suite, *, where: str) -> None:
    for key, place in files_of(suite).items():
        check_local(place, where=f"{where}.{key}")
    if isinstance(suite, config.MtBenchSuite):
        return
    for key, folder in {"include_path": suite.include_path, "mirror": suite.mirror}.items():
        if folder:
            check_folder(Path(folder), where=f"{where}.{key}")
    for name, benchmark in suite.benchmarks.items():
        if benchmark.items:
            check_file(Path(benchmark.items), where=f"{where}.benchmarks.{name}.items")

# The choice of a phased stage's checkpoint, from score records alone or by a race.


localrules:
    select_checkpoint,


rule race_checkpoints:
    input:
        stage="<run>/{stage}/spec.yaml",
        suite=lambda wildcards: str(LAYOUT.suite_spec(raced_suite(wildcards))),
        fetched=lambda wildcards: str(LAYOUT.suite_record(raced_suite(wildcards))),
        weights=weights_of,
        files=raced_files,
    output:
        record="<run>/{stage}/race.json",
        per_item="<run>/{stage}/race.parquet",
    log:
        "<logs>/race_checkpoints/{model}/{data}/{recipe}/seed{seed}/{stage}.log",
    conda:
        "../../envs/evaluate.yaml"
    resources:
        **NEEDS.of("race_checkpoints"),
    params:
        script=SCRIPTS / "race_checkpoints.py",
        semantics=semantics("race_checkpoints"),
        race=race_flags,
    shell:
        "python {params.script:q} {input.stage:q} {input.suite:q} {params.race:q} > {log:q} 2>&1"


rule select_checkpoint:
    input:
        stage="<run>/{stage}/spec.yaml",
        suites=selection_suites,
        race=selection_race,
        scores=selection_scores,
    output:
        "<run>/{stage}/selection.json",
    log:
        "<logs>/select_checkpoint/{model}/{data}/{recipe}/seed{seed}/{stage}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "select_checkpoint.py",
        semantics=semantics("select_checkpoint"),
        selection=selection_flags,
    shell:
        "python {params.script:q} {input.stage:q} --suites {input.suites:q} --scores {input.scores:q}"
        " --raced {input.race:q} {params.selection:q} 2> {log:q}"

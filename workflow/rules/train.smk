# Training. The declared outputs are small and written last; checkpoints and resume state live under scratch/, undeclared, because
# Snakemake deletes the declared outputs of a job that failed.


rule train_rung:
    input:
        spec="<run>/{stage}/spec.yaml",
        mixture="<run>/{stage}/data.json",
        start=start_of,
        before=rung_before,
        verdict=verdict_before,
    output:
        record="<run>/{stage}/rungs/{rung}/training.json",
        metrics="<run>/{stage}/rungs/{rung}/metrics.jsonl",
    log:
        "<logs>/train_rung/{model}/{data}/{recipe}/seed{seed}/{stage}/{rung}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        **{"nodes": 1, "processes": 1, "device": "auto"} | NEEDS.of("train_rung"),
    params:
        script=SCRIPTS / "train_rung.py",
        semantics=semantics("train_rung"),
    shell:
        "python {params.script:q} {input.spec:q} --rung {wildcards.rung} --verdict {input.verdict:q}"
        " --nodes {resources.nodes} --processes {resources.processes} --device {resources.device} 2> {log:q}"


rule train_stage:
    input:
        spec="<run>/{stage}/spec.yaml",
        mixture="<run>/{stage}/data.json",
        start=start_of,
        before=rung_before,
        verdict=verdict_before,
    output:
        record="<run>/{stage}/training.json",
        metrics="<run>/{stage}/metrics.jsonl",
    log:
        "<logs>/train_stage/{model}/{data}/{recipe}/seed{seed}/{stage}.log",
    conda:
        "../../envs/train.yaml"
    resources:
        **{"nodes": 1, "processes": 1, "device": "auto"} | NEEDS.of("train_stage"),
    params:
        script=SCRIPTS / "train_stage.py",
        semantics=semantics("train_stage"),
    shell:
        "python {params.script:q} {input.spec:q} --verdict {input.verdict:q} --nodes {resources.nodes}"
        " --processes {resources.processes} --device {resources.device} 2> {log:q}"


if workflow.is_main_process:  # and not once more in every job that parses the workflow again
    for warning in NEEDS.warnings:
        logger.warning(warning)

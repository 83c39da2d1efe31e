# The choice of a phased stage's checkpoint, from score records alone.


localrules:
    select_checkpoint,


rule select_checkpoint:
    input:
        stage="<run>/{stage}/spec.yaml",
        suite=lambda wildcards: LAYOUT.suite_spec(selection_suite(wildcards)),
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
        benchmark=lambda wildcards: selection_of(wildcards).benchmark,
        rule=lambda wildcards: selection_of(wildcards).rule,
    shell:
        "python {params.script:q} {input.stage:q} {input.suite:q} --scores {input.scores:q}"
        " --benchmark {params.benchmark} --rule {params.rule} 2> {log:q}"

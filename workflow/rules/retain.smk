# What may leave the disk: weights that are scored and that no stage starts from.

localrules:
    retain_weights,


rule retain_weights:
    input:
        spec="<run>/{stage}/spec.yaml",
        training="<run>/{stage}/training.json",
        scores=scores_of,
        children=children_of,
    output:
        "<run>/{stage}/retention.json",
    log:
        "<logs>/retain_weights/{model}/{data}/{recipe}/seed{seed}/{stage}.log",
    priority: 1
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "retain_weights.py",
        semantics=semantics("retain_weights"),
        removable=lambda wildcards: PLAN.removable(stage_of(wildcards)),
    shell:
        "python {params.script:q} {input.spec:q} --removable {params.removable}"
        " --scores {input.scores:q} --children {input.children:q} 2> {log:q}"

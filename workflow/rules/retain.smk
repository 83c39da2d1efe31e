# What may leave the disk: weights that are scored and that no stage starts from. And what will be on it, before anything runs.
from snakemake.logging import logger

from sftstudy.disk import planned_disk


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


if workflow.is_main_process:  # and not once more in every job that parses the workflow again
    logger.info(planned_disk(PLAN))

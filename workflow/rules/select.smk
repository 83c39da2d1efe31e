# The choice of a phased stage's checkpoint, from score records alone.


localrules:
    select_checkpoint,


rule select_checkpoint:
    input:
        stage="<run>/{stage}/spec.yaml",
        suites=selection_suites,
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
        " {params.selection:q} 2> {log:q}"

# The barrier after a rung: each study decides about all of its runs at once, and what follows for a stage is written beside it.


localrules:
    decide_screen,
    write_screen,


rule decide_screen:
    input:
        spec="<results>/studies/{study}/screens/spec.yaml",
        rungs=rungs_of_study,
        before=decision_before,
    output:
        "<results>/studies/{study}/screens/{rung}.json",
    log:
        "<logs>/decide_screen/{study}/{rung}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "decide_screen.py",
        semantics=semantics("decide_screen"),
    shell:
        "python {params.script:q} {input.spec:q} --rung {wildcards.rung} 2> {log:q}"


rule write_screen:
    input:
        spec="<run>/{stage}/spec.yaml",
        decisions=decisions_of,
        before=verdict_before,
    output:
        "<run>/{stage}/rungs/{rung}/screen.json",
    log:
        "<logs>/write_screen/{model}/{data}/{recipe}/seed{seed}/{stage}/{rung}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "write_screen.py",
        semantics=semantics("write_screen"),
        always=kept_anyway,
    shell:
        "python {params.script:q} {input.spec:q} --rung {wildcards.rung} --decisions {input.decisions:q}"
        " --always {params.always:q} --before {input.before:q} 2> {log:q}"

# What people read about a data set: its overlap with the benchmarks, and a page per model and data set. No training hangs on these.


rule check_overlap:
    input:
        spec="<results>/overlap/{data}/spec.yaml",
        validation="<results>/validation/{data}/validation.json",
        files=overlap_files,
    output:
        "<results>/overlap/{data}/overlap.json",
    log:
        "<logs>/check_overlap/{data}.log",
    conda:
        "../../envs/train.yaml"
    params:
        script=SCRIPTS / "check_overlap.py",
        semantics=semantics("check_overlap"),
    shell:
        "python {params.script:q} {input.spec:q} 2> {log:q}"


rule render_passport:
    input:
        spec="<results>/overlap/{data}/spec.yaml",
        overlap="<results>/overlap/{data}/overlap.json",
        validation="<results>/validation/{data}/validation.json",
        model="<results>/models/{model}/model.json",
        phases=phases_of_data,
    output:
        "<results>/data/{model}/{data}/passport.html",
    log:
        "<logs>/render_passport/{model}/{data}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "render_passport.py",
        semantics=semantics("render_passport"),
    shell:
        "python {params.script:q} {input.spec:q} {wildcards.model:q} 2> {log:q}"

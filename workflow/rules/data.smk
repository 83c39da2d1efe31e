# From registered sources to tokenised phases, and from phases to a stage's mixture.


rule validate_data:
    input:
        spec="<results>/validation/{data}/spec.yaml",
        files=data_files,
    output:
        "<results>/validation/{data}/validation.json",
    log:
        "<logs>/validate_data/{data}.log",
    priority: 1
    conda:
        "../../envs/train.yaml"
    params:
        script=SCRIPTS / "validate_data.py",
        semantics=semantics("validate_data"),
    shell:
        "python {params.script:q} {input.spec:q} 2> {log:q}"


rule prepare_phase:
    input:
        spec="<results>/data/{model}/{data}/{phase}/spec.yaml",
        validation="<results>/validation/{data}/validation.json",
        model="<results>/models/{model}/model.json",
        files=phase_files,
    output:
        "<results>/data/{model}/{data}/{phase}/phase.json",
    log:
        "<logs>/prepare_phase/{model}/{data}/{phase}.log",
    conda:
        "../../envs/train.yaml"
    params:
        script=SCRIPTS / "prepare_phase.py",
        semantics=semantics("prepare_phase"),
    shell:
        "python {params.script:q} {input.spec:q} --threads {threads} 2> {log:q}"


rule mix_stage:
    input:
        spec="<run>/{stage}/spec.yaml",
        phases=phases_of,
    output:
        "<run>/{stage}/data.json",
    log:
        "<logs>/mix_stage/{model}/{data}/{recipe}/seed{seed}/{stage}.log",
    conda:
        "../../envs/train.yaml"
    params:
        script=SCRIPTS / "mix_stage.py",
        semantics=semantics("mix_stage"),
    shell:
        "python {params.script:q} {input.spec:q} 2> {log:q}"

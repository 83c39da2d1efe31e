# Generated worlds and base models.


rule generate_world:
    input:
        spec="<results>/worlds/{world}/spec.yaml",
    output:
        "<results>/worlds/{world}/world.json",
    log:
        "<logs>/generate_world/{world}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "generate_world.py",
        semantics=semantics("generate_world"),
    shell:
        "python {params.script:q} {input.spec:q} 2> {log:q}"


rule pretrain_model:
    input:
        spec="<results>/models/{model}/spec.yaml",
        files=model_files,
    output:
        "<results>/models/{model}/model.json",
    log:
        "<logs>/pretrain_model/{model}.log",
    wildcard_constraints:
        model=model_names(scratch=True),
    conda:
        "../../envs/train.yaml"
    resources:
        **NEEDS.of("pretrain_model"),
    params:
        script=SCRIPTS / "pretrain_model.py",
        semantics=semantics("pretrain_model"),
    shell:
        "python {params.script:q} {input.spec:q} 2> {log:q}"


rule fetch_model:
    input:
        spec="<results>/models/{model}/spec.yaml",
        files=model_files,
    output:
        "<results>/models/{model}/model.json",
    log:
        "<logs>/fetch_model/{model}.log",
    wildcard_constraints:
        model=model_names(scratch=False),
    conda:
        "../../envs/train.yaml"
    params:
        script=SCRIPTS / "fetch_model.py",
        semantics=semantics("fetch_model"),
    shell:
        "python {params.script:q} {input.spec:q} 2> {log:q}"

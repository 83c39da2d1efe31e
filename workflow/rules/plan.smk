# Resolved inputs: what a job reads instead of config/.


localrules:
    write_spec,


rule write_spec:
    output:
        "<results>/{subject}/spec.yaml",
    log:
        "<logs>/write_spec/{subject}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "write_spec.py",
        spec=spec_text,
    shell:
        # a study's spec can be longer than an argument may be
        "python {params.script:q} {output:q} 2> {log:q} << 'END_OF_SPEC'\n{params.spec}\nEND_OF_SPEC\n"

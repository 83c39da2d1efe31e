# From records to tables, figures and pages. Torch is not needed here, and nothing here can reach training.


localrules:
    write_index,


rule collect_scores:
    input:
        studies=expand("<results>/studies/{study}/spec.yaml", study=PLAN.studies),
        records=COLLECTED,
    output:
        scores="<results>/scores.csv",
        missing="<results>/missing.csv",
    log:
        "<logs>/collect_scores.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "collect_scores.py",
        semantics=semantics("collect_scores"),
        missing=[record for record in RECORDS if record not in COLLECTED],
    shell:
        "python {params.script:q} {input.studies:q} 2> {log:q}"


rule render_table:
    input:
        study="<results>/studies/{study}/spec.yaml",
        scores="<results>/scores.csv",
        missing="<results>/missing.csv",
    output:
        multiext(
            "<results>/studies/{study}/tables/{table}",
            ".csv",
            ".md",
            ".tex",
            ".html",
            ".pedigree.json",
        ),
    log:
        "<logs>/render_table/{study}/{table}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "render_table.py",
        semantics=semantics("render_table"),
    shell:
        "python {params.script:q} {input.study:q} {wildcards.table:q} 2> {log:q}"


rule write_numbers:
    input:
        study="<results>/studies/{study}/spec.yaml",
        tables=lambda wildcards: TABLES_OF_SCORES[study_of(wildcards)],
    output:
        multiext("<results>/studies/{study}/numbers/numbers", ".json", ".tex"),
    log:
        "<logs>/write_numbers/{study}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "write_numbers.py",
        semantics=semantics("write_numbers"),
    shell:
        "python {params.script:q} {input.study:q} 2> {log:q}"


rule render_figure:
    input:
        study="<results>/studies/{study}/spec.yaml",
        scores="<results>/scores.csv",
    output:
        multiext("<results>/studies/{study}/figures/{figure}", ".png", ".pdf"),
    log:
        "<logs>/render_figure/{study}/{figure}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "render_figure.py",
        semantics=semantics("render_figure"),
    shell:
        "python {params.script:q} {input.study:q} {wildcards.figure:q} 2> {log:q}"


rule check_claims:
    input:
        study="<results>/studies/{study}/spec.yaml",
        scores="<results>/scores.csv",
    output:
        "<results>/studies/{study}/claims.json",
        "<results>/studies/{study}/claims.html",
    log:
        "<logs>/check_claims/{study}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "check_claims.py",
        semantics=semantics("check_claims"),
    shell:
        "python {params.script:q} {input.study:q} 2> {log:q}"


rule summarize_study:
    input:
        study="<results>/studies/{study}/spec.yaml",
        scores="<results>/scores.csv",
    output:
        "<results>/studies/{study}/summary.txt",
    log:
        "<logs>/summarize_study/{study}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "summarize_study.py",
        semantics=semantics("summarize_study"),
    shell:
        "python {params.script:q} {input.study:q} 2> {log:q}"


rule write_guide:
    input:
        study="<results>/studies/{study}/spec.yaml",
        scores="<results>/scores.csv",
        claims=claims_of,
    output:
        multiext("<results>/studies/{study}/guide", ".json", ".html"),
    log:
        "<logs>/write_guide/{study}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "write_guide.py",
        semantics=semantics("write_guide"),
    shell:
        "python {params.script:q} {input.study:q} 2> {log:q}"


rule replay_screen:
    input:
        study="<results>/studies/{study}/spec.yaml",
        scores="<results>/scores.csv",
    output:
        multiext("<results>/studies/{study}/replay/replay", ".csv", ".png", ".pdf"),
    log:
        "<logs>/replay_screen/{study}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "replay_screen.py",
        semantics=semantics("replay_screen"),
    shell:
        "python {params.script:q} {input.study:q} 2> {log:q}"


rule audit_screen:
    input:
        study="<results>/studies/{study}/spec.yaml",
        scores="<results>/scores.csv",
    output:
        multiext("<results>/studies/{study}/screen/audit", ".json", ".md"),
        multiext("<results>/studies/{study}/screen/signals", ".png", ".pdf"),
        multiext("<results>/studies/{study}/screen/savings", ".png", ".pdf"),
        "<results>/studies/{study}/screen/screen.html",
    log:
        "<logs>/audit_screen/{study}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "audit_screen.py",
        semantics=semantics("audit_screen"),
    shell:
        "python {params.script:q} {input.study:q} 2> {log:q}"


rule write_report:
    input:
        lambda wildcards: PRODUCTS[study_of(wildcards)],
        study="<results>/studies/{study}/spec.yaml",
        scores="<results>/scores.csv",
        missing="<results>/missing.csv",
    output:
        "<results>/studies/{study}/report.html",
    log:
        "<logs>/write_report/{study}.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "write_report.py",
        semantics=semantics("write_report"),
    shell:
        "python {params.script:q} {input.study:q} 2> {log:q}"


rule write_index:
    input:
        REPORTS,
    output:
        "<results>/index.html",
    log:
        "<logs>/write_index.log",
    conda:
        "../../envs/tables.yaml"
    params:
        script=SCRIPTS / "write_index.py",
        semantics=semantics("write_index"),
    shell:
        "python {params.script:q} 2> {log:q}"

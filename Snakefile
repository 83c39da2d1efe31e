# The index of the workflow: what is included, in data-flow order, and what can be asked for. `snakemake -c all` makes `all`.
from snakemake.utils import min_version

min_version("9.12")


include: "workflow/rules/common.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/plan.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/passport.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/screen.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/select.smk"
include: "workflow/rules/retain.smk"


COLLECTED = RECORDS


include: "workflow/rules/tables.smk"


localrules:
    all,
    plan,
    hours,
    fetch,
    data,
    passports,
    training,
    scores,
    tables,
    retained,


rule all:
    default_target: True
    input:
        PASSPORTS,
        TABLES,
        RETAINED,


rule plan:
    log:
        "<logs>/plan.log",
    conda:
        "envs/tables.yaml"
    params:
        script=SCRIPTS / "plan_study.py",
        flags=config_flags(),
    shell:
        "python {params.script:q} {params.flags} 2>&1 | tee {log:q}"


rule hours:
    log:
        "<logs>/hours.log",
    conda:
        "envs/tables.yaml"
    params:
        script=SCRIPTS / "count_hours.py",
        flags=config_flags(),
    shell:
        "python {params.script:q} {params.flags} 2>&1 | tee {log:q}"


rule fetch:
    input:
        FETCHED,


rule data:
    input:
        PREPARED,
        PASSPORTS,


rule passports:
    input:
        PASSPORTS,


rule training:
    input:
        TRAINED,


rule scores:
    input:
        SCORED,


rule tables:
    input:
        TABLES,


rule retained:
    input:
        RETAINED,

# The second entry point: records -> tables. Trains and scores nothing; a record that is not there is an empty cell.
# `snakemake -c1 -F --nolock -s workflow/tables.smk tables`
from snakemake.utils import min_version

min_version("9.12")


include: "rules/common.smk"
include: "rules/plan.smk"


COLLECTED = [record for record in RECORDS if Path(record).exists()]


include: "rules/tables.smk"


localrules:
    tables,


rule tables:
    default_target: True
    input:
        TABLES,

# What the active studies name must be there before anything runs: files, and the revisions of hub models. A dry run only says which
# revisions are still to be stated. `tables.smk` leaves this out: it needs records alone.
from snakemake.logging import logger

try:
    PLAN.check_inputs()
    if PLAN.unpinned and not workflow.dryrun:
        raise StudyError(PLAN.unpinned[0])
except StudyError as error:
    sys.exit(f"error: {error}")

for line in PLAN.unpinned:
    logger.info(f"to be stated before it runs: {line}")

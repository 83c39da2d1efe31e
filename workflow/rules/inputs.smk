# What the active studies name must be there before anything runs: files, and the revisions of hub models. A dry run plans without them,
# and says what is missing. `tables.smk` leaves this out: it needs records alone.
from snakemake.logging import logger

if workflow.is_main_process:  # and not once more in every job that parses the workflow again
    for line in PLAN.missing_inputs:
        logger.info(f"to be supplied before it runs: {line}")


onstart:
    for line in PLAN.missing_inputs:
        sys.exit(f"error: {line}")

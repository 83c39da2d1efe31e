# Files that the active studies name must be there before anything runs. `tables.smk` leaves this out: it needs records alone.
try:
    PLAN.check_inputs()
except StudyError as error:
    sys.exit(f"error: {error}")

# Snakemake on a cluster: its SLURM plugin keeps its jobs while the controller is away. Jobs themselves need not load it.
if workflow.is_main_process:
    import snakemake_executor_plugin_slurm as slurm_plugin

    from sftstudy.watch import steadfast

    slurm_plugin.query_job_status = steadfast(slurm_plugin.query_job_status)

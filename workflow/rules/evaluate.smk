# Scores: one job per stage, suite and block of checkpoints. What a suite needs is fetched before, once and without a GPU.


rule fetch_suite:
    input:
        suite="<results>/suites/{suite}/spec.yaml",
        files=suite_files,
    output:
        "<results>/suites/{suite}/suite.json",
    log:
        "<logs>/fetch_suite/{suite}.log",
    wildcard_constraints:
        suite=suite_names("harness"),
    conda:
        "../../envs/evaluate.yaml"
    params:
        script=SCRIPTS / "fetch_suite.py",
        semantics=semantics("fetch_suite"),
    shell:
        "python {params.script:q} {input.suite:q} 2> {log:q}"


rule score_harness:
    input:
        stage="<run>/{stage}/spec.yaml",
        suite="<results>/suites/{suite}/spec.yaml",
        fetched="<results>/suites/{suite}/suite.json",
        weights=weights_of,
        race=race_of,
        files=suite_files,
    output:
        record="<run>/{stage}/scores/{suite}/{part}.json",
        per_item="<run>/{stage}/scores/{suite}/{part}.parquet",
    log:
        "<logs>/score_harness/{model}/{data}/{recipe}/seed{seed}/{stage}/{suite}/{part}.log",
    wildcard_constraints:
        suite=suite_names("harness"),
    conda:
        "../../envs/evaluate.yaml"
    resources:
        **NEEDS.of("score_harness"),
    params:
        script=SCRIPTS / "score_harness.py",
        semantics=semantics("score_harness"),
    shell:
        "python {params.script:q} {input.stage:q} {input.suite:q} --part {wildcards.part} --raced {input.race:q} > {log:q} 2>&1"


rule answer_mt_bench:
    input:
        stage="<run>/{stage}/spec.yaml",
        suite="<results>/suites/{suite}/spec.yaml",
        weights=weights_of,
        files=suite_files,
    output:
        "<run>/{stage}/scores/{suite}/{part}.answers.jsonl",
    log:
        "<logs>/answer_mt_bench/{model}/{data}/{recipe}/seed{seed}/{stage}/{suite}/{part}.log",
    wildcard_constraints:
        suite=suite_names("mt-bench"),
    conda:
        "../../envs/evaluate.yaml"
    resources:
        **NEEDS.of("answer_mt_bench"),
    params:
        script=SCRIPTS / "answer_mt_bench.py",
        semantics=semantics("answer_mt_bench"),
    shell:
        "python {params.script:q} {input.stage:q} {input.suite:q} --part {wildcards.part} 2> {log:q}"


rule judge_mt_bench:
    input:
        stage="<run>/{stage}/spec.yaml",
        suite="<results>/suites/{suite}/spec.yaml",
        answers="<run>/{stage}/scores/{suite}/{part}.answers.jsonl",
        judged_with=judged_with,
        files=suite_files,
    output:
        record="<run>/{stage}/scores/{suite}/{part}.json",
        per_item="<run>/{stage}/scores/{suite}/{part}.parquet",
        judgments="<run>/{stage}/scores/{suite}/{part}.judgments.jsonl",
    log:
        "<logs>/judge_mt_bench/{model}/{data}/{recipe}/seed{seed}/{stage}/{suite}/{part}.log",
    wildcard_constraints:
        suite=suite_names("mt-bench"),
    conda:
        "../../envs/evaluate.yaml"
    resources:
        **NEEDS.of("judge_mt_bench"),
    params:
        script=SCRIPTS / "judge_mt_bench.py",
        semantics=semantics("judge_mt_bench"),
    shell:
        "python {params.script:q} {input.stage:q} {input.suite:q} --part {wildcards.part} 2> {log:q}"

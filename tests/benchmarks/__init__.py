"""What withrun costs, beside MLflow and beside the floor: `make bench`.

`python -m tests.benchmarks NAME …` runs some. A benchmark is a file `bench_NAME.py` with a context manager
`prepared(folder)` that yields `Benchmark`s: what it sets up (a server, a store) is there while they are
measured. Contenders take turns round by round, so that a machine that slows down slows all of them. The
floor is the least that anything could do.
"""

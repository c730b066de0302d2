"""The paper's systems and tables: python -m benchmarks.paper TABLE --preset smoke|small|full."""

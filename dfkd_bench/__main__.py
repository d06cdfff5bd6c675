"""`python -m dfkd_bench`."""

from dfkd_bench.cli import main

main()

"""``python -m pipeline.verify``: see pipeline/verifier/verify.py."""

import runpy

if __name__ == "__main__":
    runpy.run_module("pipeline.verifier.verify", run_name="__main__", alter_sys=True)

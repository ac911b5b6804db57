"""Compressed models in older runtimes: `prepare` makes them with the newest, `run` loads and runs them in any environment with numpy and onnxruntime."""

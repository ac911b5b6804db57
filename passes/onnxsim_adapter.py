"""onnxsim, at arm's length."""
import onnx_ir as ir
def run_onnxsim(model: ir.Model, seconds: float) -> str:
    return "onnxsim: skipped"

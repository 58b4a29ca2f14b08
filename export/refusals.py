"""The table of refusals: a text of PyTorch's or ONNX Runtime's, what it means, and what to write instead.

The first that fits counts: special ones stand before the general ones of their kind. In what is said, a backslash and a
number stand for a group of the pattern. Each is provoked by a real model in tests/export/test_explanations.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """One kind of refusal."""

    pattern: str
    """A regular expression that is searched for in the error's text with its traceback."""
    means: str
    """What is the matter, as half a sentence about the user's model."""
    instead: str
    """What to write instead."""


_CAPTURE = (
    Cause(
        r"GuardOnDataDependentSymNode|Could not guard on data-dependent expression",
        "forward() goes on by the values of a tensor, which are not known while it is traced",
        "compute both results and choose by torch.where, write torch.cond, or keep what depends on values out of "
        "shapes and Python numbers",
    ),
    Cause(
        r"DataDependentOutputException: ([\w.]+)",
        r"forward() asks for a Python value of tensors (\1), which are not known while it is traced",
        "stay with tensors: compute both results and choose by torch.where",
    ),
    Cause(
        r"\.numpy\(\) is not supported for tensor subclasses",
        "forward() leaves PyTorch for NumPy, where no tracer can follow",
        "use torch's function of the same name, on tensors",
    ),
    Cause(
        r"Constraints violated \(([^)]*)\)[\s\S]*?Suggested fixes:\n\s*(.+)",
        r"the code of the model does not hold for every declared size of \1",
        r"declare the sizes for which it holds (PyTorch suggests: \2), or change the code that needs them",
    ),
    Cause(
        r"Constraints violated \(([^)]*)\)[\s\S]*?generated guard (.+?)(?:\n|$)",
        r"the tracer cannot show that the code holds for every declared size of \1 (it would need \2)",
        "compute sizes with whole numbers (//, no / or scale factor), make the dimension static, or narrow its range",
    ),
    Cause(
        r"wrap_with_autocast: unexpected freevars",
        "torch.compile cannot take a traced block under autocast whose sizes are dynamic",
        "leave autocast to who calls the model, declare its sizes static, or serve aotinductor",
    ),
    Cause(
        r"nn/modules/rnn\.py[\s\S]*argument 'size' failed to unpack",
        "torch.export cannot trace a recurrent layer over a packed sequence",
        "give the layer the padded tensor, and take each row's last real step by its length (gather)",
    ),
    Cause(
        r"UnsupportedOperatorException: (aten\.\w*sparse\w*)",
        r"torch.export cannot trace the sparse operator \1",
        "keep the matrix dense, or multiply by index_add_ or scatter_add_ over its indices and values",
    ),
    Cause(
        r"UnsupportedOperatorException: (aten\.\w*nested\w*)",
        r"torch.export cannot trace nested tensors (\1)",
        "pad the rows to one length, and pass a mask",
    ),
    Cause(
        r"We found a fake tensor in the exported program constant's list",
        "forward() makes a tensor that the tracer cannot follow, as torch.autograd.grad does",
        "take gradients by torch.func.grad, or make the model return what they are taken of",
    ),
    Cause(
        r"a leaf Variable that requires grad is being used in an in-place operation",
        "forward() changes a parameter in place",
        "compute a new tensor (weight * 2, not weight.mul_(2)), or keep what changes in a buffer",
    ),
    Cause(
        r"Inplace update to inference tensor outside InferenceMode",
        "forward() changes a tensor in place that was made in inference mode",
        "make it under torch.no_grad(), or clone it first",
    ),
    Cause(
        r"Only Tensors created explicitly by the user \(graph leaves\) support the deepcopy protocol",
        "the module keeps a tensor that was computed with gradients, as weight_norm by hooks does once it was called",
        "use torch.nn.utils.parametrizations.weight_norm, or call the module under torch.no_grad() only",
    ),
)
_ONNX = (
    Cause(
        r"No ONNX function found for <OpOverload\(op='([\w.]+)'[^>]*>\. Failure message: No decompositions registered "
        r"for the complex",
        r"the ONNX exporter has no \1 for complex numbers, which ONNX itself does not know",
        "compute with the real and the imaginary part as two real tensors (torch.view_as_real)",
    ),
    Cause(
        r"No ONNX function found for <OpOverload\(op='([\w.]+)'",
        r"the ONNX exporter has no translation of \1",
        "write it with other operators, or serve another artifact",
    ),
    Cause(
        r"Constant (?:module\.)?([\w.]+) is \w+ in the forward method\. Pls register it as buffer",
        r"forward() changes the tensor \1 in place, which is neither parameter nor buffer",
        "register it with register_buffer, or compute a new tensor",
    ),
    Cause(
        r"<class 'NotImplementedError'>: (.+)[\s\S]*?Error when translating node %\w+ : "
        r".*?call_function\[target=torch\.ops\.([\w.]+)\]",
        r"the ONNX exporter cannot translate \2 as it is used here (\1)",
        "use it with other arguments, or write it with other operators",
    ),
    Cause(
        r"UnsupportedOperatorError: Exporting the operator '(?:aten::)?([\w:]+)' to ONNX opset version (\d+)",
        r"the older ONNX exporter has no translation of \1 (opset \2)",
        "use the backend onnx, or write it with other operators",
    ),
    Cause(
        r"op_type:(\w+Normalization)[\s\S]*?: \w+ has inconsistent type",
        r"ONNX has no \1 whose weights are of another type than its input, as autocast makes it",
        "cast that layer's input to its weights' type (norm(x.float())), or leave autocast to who calls the model",
    ),
    Cause(
        r"NOT_IMPLEMENTED : Could not find an implementation for (\w+)\((\d+)\) node with name '([^']*)'",
        r"ONNX Runtime has no \1 (opset \2) for the dtype that it is given at \3",
        "compute that layer in float32, or serve another artifact",
    ),
)
_TORCHSCRIPT = (
    Cause(
        r"Could not export Python function call '(\w+)'",
        r"TorchScript cannot save the autograd function \1",
        "call plain operations in eval mode, and the function only where self.training",
    ),
    Cause(
        r"Tracing failed sanity checks",
        "forward() does something else at each call, so that a trace holds one of them only",
        "let it depend on its inputs alone: no counters or other Python state, no random numbers",
    ),
    Cause(
        r"Cannot insert a Tensor that requires grad as a constant",
        "forward() takes a gradient, which a trace cannot hold",
        "make the model return what the gradient is taken of",
    ),
    Cause(
        r"Expected integer literal for index",
        "TorchScript does not index a ModuleList by a variable",
        "iterate over it: for layer in self.layers",
    ),
    Cause(
        r"Expected type hint for result of tolist\(\)",
        "TorchScript must know the type of the list that tolist() makes",
        "annotate it (values: List[float] = x.tolist()), or stay with tensors",
    ),
    Cause(
        r"python value of type '([^']+)' cannot be used as a value",
        r"TorchScript does not know global values of type \1",
        "pass it in, make it an attribute of the module, or a typing.Final constant",
    ),
    Cause(
        r"has no attribute '(\w+)' \(This (?:attribute|function) exists",
        r"TorchScript cannot take over the attribute \1, a Python value of a type that it does not have",
        "make it a module, a tensor, a number, or a list or dict of them with its type annotated",
    ),
    Cause(
        r"Tried to set nonexistent attribute: (\w+)",
        r"forward() sets the attribute \1, which __init__ does not have",
        "give it its first value in __init__, or keep it a local variable",
    ),
    Cause(
        r"Unknown builtin op: ([\w:]+)",
        r"TorchScript does not know \1",
        "leave it out of forward()",
    ),
    Cause(
        r"variable number of arguments",
        "TorchScript does not take *args, **kwargs or keyword-only defaults",
        "name each argument",
    ),
    Cause(
        r"(?:UnsupportedNodeError|NotSupportedError): (.+?) (?:aren't|is not|are not) supported",
        r"TorchScript does not have this part of Python: \1",
        "write it with if, for, and calls of named arguments",
    ),
)
CAUSES = (*_CAPTURE, *_ONNX, *_TORCHSCRIPT)

"""Long lists of words that PEFT accepts; a test compares them with the installed one."""

ACTIVATIONS = (
    "gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh",
    "gelu_pytorch_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish", "prelu", "quick_gelu",
    "relu", "relu2", "relu6", "sigmoid", "silu", "sqrtsoftplus", "swish", "tanh", "xielu",
)  # fmt: skip
WAVELETS = (
    "coif1", "coif10", "coif11", "coif12", "coif13", "coif14", "coif15", "coif16", "coif17", "coif2", "coif3",
    "coif4", "coif5", "coif6", "coif7", "coif8", "coif9", "db1", "db10", "db11", "db12", "db13", "db14",
    "db15", "db16", "db17", "db18", "db19", "db2", "db20", "db21", "db22", "db23", "db24", "db25", "db26",
    "db27", "db28", "db29", "db3", "db30", "db31", "db32", "db33", "db34", "db35", "db36", "db37", "db38",
    "db4", "db5", "db6", "db7", "db8", "db9", "sym10", "sym11", "sym12", "sym13", "sym14", "sym15", "sym16",
    "sym17", "sym18", "sym19", "sym2", "sym20", "sym3", "sym4", "sym5", "sym6", "sym7", "sym8", "sym9",
)  # fmt: skip

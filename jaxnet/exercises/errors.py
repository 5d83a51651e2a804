"""What to say of exceptions that readers who know PyTorch meet in any exercise."""

from __future__ import annotations

LEAKED = (
    "a value of a traced function was kept outside it (by append, or in a variable): under "
    "jax.jit, jax.grad and jax.lax.scan a function hands values out by `return` alone"
)
# (a pattern of "Type: text", the hint)
ERRORS = (
    ("UnexpectedTracerError", LEAKED),
    (
        "ConcretizationTypeError|TracerBoolConversion|TracerIntegerConversion",
        (
            "a traced array has no value yet, so float(), int(), .item() and Python's if cannot "
            "read it: leave it as an array"
        ),
    ),
    (
        "TracerArrayConversionError",
        "a NumPy function was given a traced array: inside what JAX traces write jnp, not np",
    ),
    (
        "has no attribute '(to|float|double|half|bfloat16|long)'",
        "JAX's arrays have .astype(dtype) for this: x.astype(jnp.float32)",
    ),
    (
        "has no attribute '(detach|backward|grad|requires_grad\\w*|zero_grad)'",
        "nothing is recorded on JAX's arrays: jax.grad(f) returns the gradient of a function",
    ),
    (
        "has no attribute '(clamp|unsqueeze|permute|size|expand|numel|\\w+_)'",
        "this is a method of PyTorch's tensors: JAX's arrays have those of NumPy's",
    ),
    (
        "argument: 'rngs'",
        "a layer of Flax draws its first weights when it is made: give it rngs=rngs",
    ),
    ("unexpected keyword argument 'bias'", "in Flax it is use_bias=False"),
    (
        "nnx has no attribute '(ReLU|Tanh|Sigmoid|GELU)'|relu could not be resolved",
        "an activation is no layer in Flax but a function: nnx.relu, not called",
    ),
    ("'State' object is not callable", "params are no model: nnx.merge(graphdef, params) is one"),
    (
        "'list'.* assigned to static attribute",
        (
            "layers are given one by one, not in a Python list: nnx.Sequential(a, b, c), or "
            "self.a = ..., or nnx.List"
        ),
    ),
    (
        "true_fun and false_fun",
        "jax.lax.cond takes functions, not values: cond(condition, if_true, if_false, operand)",
    ),
    ("'NoneType' object", "a function returned None: is a `return` missing?"),
)

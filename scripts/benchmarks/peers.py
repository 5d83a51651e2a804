"""The table of participants, by name; those of the levers are in `levers`."""

from __future__ import annotations

from .participant import Participant

JAX = ("jax", "optax")
PEERS = {
    p.name: p
    for p in (
        Participant(
            "scan", "peers_jax:scan", JAX, cache="jax",
            half=True,
            note="the reference: `jax.lax.scan` of `jax.value_and_grad` and optax over row "
            "indices, no package around it",
        ),
        Participant(
            "fit_scan", "peers_jax:fit_scan", JAX, cache="jaxnet",
            half=True,
            note="jaxnet: `train.on_rows` and `train.fit_scan`, weights held (out, in) by "
            "`train.transposed`",
        ),
        Participant(
            "fit_scan elsewhere", "peers_jax:fit_scan", JAX, cache="jaxnet", elsewhere=True,
            note="the same in the other Python, with its JAX",
        ),
        Participant(
            "train", "peers_run:train", JAX, cache="jaxnet", own_data=True,
            half=True,
            note="jaxnet: `runs.train(Config(...))` on a file, with progress, metrics, evaluation; "
            "timed after the first fifth. A run has biases and one target column, so the "
            "tutorial's rows are ten classes to it (cross-entropy) and its biases are trained",
        ),
        Participant(
            "train-gram", "peers_run:train_gram", JAX, cache="jaxnet", own_data=True,
            note="the same run with `gram=\"on\"`",
        ),
        Participant(
            "gram", "peers_jax:gram", JAX, cache="jaxnet",
            note="jaxnet: the first layer in its dual form (`jaxnet.engine.gram`)",
        ),
        Participant(
            "torch", "peers_torch:eager", ("torch",),
            half=True,
            note="PyTorch eager: `nn.Sequential`, zero_grad, backward, step, torch's default "
            "implementation of the optimizer",
        ),
        Participant(
            "torch-fused", "peers_torch:fused", ("torch",),
            half=True,
            note="PyTorch eager with `fused=True` in the optimizer",
        ),
        Participant(
            "torch-compile", "peers_torch:compiled", ("torch",), cache="torch",
            half=True,
            note="PyTorch with `torch.compile` of forward, loss and the optimizer's step",
        ),
        Participant(
            "torch-graph", "peers_torch:graph", ("torch",), only_gpu=True,
            note="PyTorch with the whole step in a CUDA graph",
        ),
        Participant(
            "sklearn", "peers_sklearn:mlp", ("sklearn",), gpu=False, adam="adam-hat",
            note="scikit-learn's MLPClassifier or MLPRegressor, alpha=0: `partial_fit` over many "
            "batches in one call, `fit` with warm_start where the batch is the table",
        ),
        Participant(
            "keras", "peers_keras:fit", ("keras", "jax"), cache="jax", adam="adam-hat",
            environment={"KERAS_BACKEND": "jax"},
            half=True,
            note="Keras on JAX: `model.fit` of many steps in one call, jit_compile, "
            "steps_per_execution=32, no shuffling, no callbacks",
        ),
        Participant(
            "keras-default", "peers_keras:fit_default", ("keras", "jax"), cache="jax",
            adam="adam-hat", environment={"KERAS_BACKEND": "jax"},
            half=True,
            note="the same with Keras' default of one step to an execution",
        ),
        Participant(
            "equinox", "peers_modules:equinox", ("equinox", *JAX), cache="jax",
            note="Equinox: `eqx.filter_jit(donate=\"all\")` of a step on flattened state, as its "
            "page on low-overhead loops says; rows gathered inside the step",
        ),
        Participant(
            "nnx", "peers_modules:nnx_loop", ("flax", *JAX), cache="jax",
            note="Flax nnx: `nnx.jit` of a step in a Python loop through `nnx.cached_partial`; "
            "rows gathered inside the step",
        ),
        Participant(
            "numpy", "peers_numpy:hand", ("numpy",), gpu=False,
            note="NumPy: gradients by hand, the optimizer in place",
        ),
        Participant(
            "vmap", "peers_sweep:vmapped", JAX, sweep=True, cache="jax",
            note="the reference of the sweep: `jax.vmap` of the scan's step over the members",
        ),
        Participant(
            "jaxnet.sweep", "peers_sweep:jaxnet_sweep", JAX, sweep=True, cache="jaxnet",
            own_data=True,
            note="jaxnet: `sweep.train`",
        ),
        Participant(
            "torch one by one", "peers_sweep:torch_one_by_one", ("torch",), sweep=True,
            note="PyTorch eager (fused optimizer), one network after the other",
        ),
        Participant(
            "torch bmm", "peers_sweep:torch_bmm", ("torch",), sweep=True,
            note="PyTorch eager, the networks stacked by hand (`baddbmm`), one Adam by hand with a "
            "rate for each member",
        ),
        Participant(
            "sklearn one by one", "peers_sweep:sklearn_one_by_one", ("sklearn",), sweep=True,
            gpu=False, adam="adam-hat", note="scikit-learn, one network after the other",
        ),
    )
}  # fmt: skip
REFERENCES = {False: "scan", True: "vmap"}  # of a usual workload, of a sweep
JAXNET = {"fit_scan", "fit_scan elsewhere", "train", "train-gram", "gram", "jaxnet.sweep"}

"""Rows: losses and their reductions."""

from phrasebook.row import Row

LOGITS = {"logits": (4, 3), "labels": [2, 0, 1, 1]}

ROWS = [
    Row(
        "MSELoss",
        torch="y = F.mse_loss(x, t)",
        jax="y = optax.squared_error(x, t).mean()",
        trap="`optax.l2_loss` is half of the square.",
        naive="y = optax.l2_loss(x, t).mean()",
        given={"x": (4, 3), "t": (4, 3)},
    ),
    Row(
        "Reductions",
        torch="y = F.mse_loss(x, t, reduction='sum')",
        jax="y = optax.squared_error(x, t).sum()",
        trap="The losses of optax do not reduce: each returns one number for each element or "
        "row. PyTorch's mean is over all elements, not over rows.",
        naive="y = optax.squared_error(x, t).sum(axis=1).mean()",
        given={"x": (4, 3), "t": (4, 3)},
    ),
    Row(
        "L1Loss",
        torch="y = F.l1_loss(x, t)",
        jax="y = ((x - t) * jnp.sign(x - t)).mean()",
        trap="Where x is t the gradient is 0 in PyTorch; that of `jnp.abs` is 1.",
        naive="y = jnp.abs(x - t).mean()",
        given={"x": [1.0, 2.0, 3.0], "t": [1.0, 2.5, 2.0]},
    ),
    Row(
        "HuberLoss",
        torch="y = F.huber_loss(x, t, delta=0.5)",
        jax="y = optax.huber_loss(x, t, delta=0.5).mean()",
        trap="The default delta is 1, in both.",
        naive="y = optax.huber_loss(x, t).mean()",
        given={"x": (4, 3), "t": (4, 3)},
    ),
    Row(
        "SmoothL1Loss",
        torch="y = F.smooth_l1_loss(x, t, beta=0.5)",
        jax="y = optax.huber_loss(x, t, delta=0.5).mean() / 0.5",
        trap="It is Huber's loss divided by beta.",
        naive="y = optax.huber_loss(x, t, delta=0.5).mean()",
        given={"x": (4, 3), "t": (4, 3)},
    ),
    Row(
        "CrossEntropyLoss",
        torch="y = F.cross_entropy(logits, labels)",
        jax="y = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()",
        trap="Both take logits. Probabilities are taken without an error, and softmax comes twice.",
        naive="""
            probabilities = nnx.softmax(logits)
            y = optax.softmax_cross_entropy_with_integer_labels(probabilities, labels).mean()
        """,
        given=LOGITS,
    ),
    Row(
        "Cross entropy of classes on axis 1",
        torch="y = F.cross_entropy(logits, labels)",
        jax="""
            last = jnp.moveaxis(logits, 1, -1)
            y = optax.softmax_cross_entropy_with_integer_labels(last, labels).mean()
        """,
        trap="PyTorch's classes are on axis 1, also of sequences and images; those of optax are "
        "on the last, and where the shapes fit nothing tells.",
        naive="y = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()",
        given={"logits": (2, 3, 3), "labels": [[2, 0, 1], [1, 1, 0]]},
    ),
    Row(
        "ignore_index",
        torch="y = F.cross_entropy(logits, labels)",
        jax="""
            used = labels != -100
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.where(used, labels, 0)
            )
            y = (losses * used).sum() / used.sum()
        """,
        trap="PyTorch's mean is over the rows that are used, of -100 as its default. A mean over "
        "all rows is smaller.",
        naive="""
            used = labels != -100
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, jnp.where(used, labels, 0)
            )
            y = (losses * used).mean()
        """,
        given=LOGITS | {"labels": [2, -100, 1, -100]},
    ),
    Row(
        "Weights of classes",
        torch="""
            weight = logits.new_tensor([0.2, 1, 3])
            y = F.cross_entropy(logits, labels, weight=weight)
        """,
        jax="""
            weight = jnp.array([0.2, 1, 3])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            y = (losses * weight[labels]).sum() / weight[labels].sum()
        """,
        trap="PyTorch divides by the sum of the rows' weights, not by the number of rows.",
        naive="""
            weight = jnp.array([0.2, 1, 3])
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            y = (losses * weight[labels]).mean()
        """,
        given=LOGITS,
    ),
    Row(
        "Label smoothing",
        torch="y = F.cross_entropy(logits, labels, label_smoothing=0.1)",
        jax="""
            targets = optax.smooth_labels(jax.nn.one_hot(labels, 3), 0.1)
            y = optax.softmax_cross_entropy(logits, targets).mean()
        """,
        trap="The 0.1 is divided among all classes, the right one too: it keeps 0.9 + 0.1 / 3.",
        naive="""
            targets = jnp.where(jax.nn.one_hot(labels, 3) == 1, 0.9, 0.1 / 2)
            y = optax.softmax_cross_entropy(logits, targets).mean()
        """,
        given=LOGITS,
    ),
    Row(
        "one_hot",
        torch="""
            try:
                y = F.one_hot(i, 3)
            except RuntimeError:
                y = "RuntimeError"
        """,
        jax="""
            y = jax.nn.one_hot(i, 3, dtype=int) if bool((i < 3).all()) else "RuntimeError"
        """,
        trap="A label out of range is an error in PyTorch, a row of zeros in JAX: a cross entropy "
        "of 0.",
        naive="y = jax.nn.one_hot(i, 3, dtype=int)",
        given={"i": [2, 3]},
        check="value",
    ),
    Row(
        "NLLLoss",
        torch="y = F.nll_loss(logits.log_softmax(1), labels)",
        jax="""
            logs = nnx.log_softmax(logits, axis=1)
            y = -jnp.take_along_axis(logs, labels[:, None], axis=1).mean()
        """,
        trap="It takes logarithms of probabilities, and takes no logarithm itself.",
        naive="""
            probabilities = nnx.softmax(logits, axis=1)
            y = -jnp.take_along_axis(probabilities, labels[:, None], axis=1).mean()
        """,
        given=LOGITS,
    ),
    Row(
        "BCEWithLogitsLoss",
        torch="y = F.binary_cross_entropy_with_logits(x, t)",
        jax="y = optax.sigmoid_binary_cross_entropy(x, t).mean()",
        trap="A sigmoid and then a logarithm overflows: at -800 the sigmoid is 0, and its "
        "logarithm infinite.",
        naive="y = -(t * jnp.log(nnx.sigmoid(x)) + (1 - t) * jnp.log(nnx.sigmoid(-x))).mean()",
        given={"x": [0.5, -800.0, 1.5], "t": [0.25, 1.0, 0.0]},
    ),
    Row(
        "pos_weight",
        torch="""
            weight = x.new_tensor([0.5, 2, 3])
            y = F.binary_cross_entropy_with_logits(x, t, pos_weight=weight)
        """,
        jax="""
            weight = jnp.array([0.5, 2, 3])
            y = -(weight * t * nnx.log_sigmoid(x) + (1 - t) * nnx.log_sigmoid(-x)).mean()
        """,
        trap="It weighs the positive half of the loss alone, and the mean stays that over "
        "elements; a weight of the element weighs both halves.",
        naive="""
            weight = jnp.array([0.5, 2, 3])
            y = (weight * optax.sigmoid_binary_cross_entropy(x, t)).mean()
        """,
        given={"x": (4, 3), "t": (4, 3)},
    ),
    Row(
        "KLDivLoss",
        torch="y = F.kl_div(logits.log_softmax(1), t.softmax(1), reduction='batchmean')",
        jax="y = optax.kl_divergence(nnx.log_softmax(logits), nnx.softmax(t)).mean()",
        trap="The first argument holds logarithms in both. PyTorch's default mean is over "
        "elements, and so smaller by the number of classes.",
        naive="""
            p, q = nnx.softmax(t), nnx.softmax(logits)
            y = (p * (jnp.log(p) - jnp.log(q))).mean()
        """,
        given={"logits": (4, 3), "t": (4, 3)},
    ),
    Row(
        "Cosine similarity",
        torch="y = F.cosine_similarity(a, b)",
        jax="y = optax.cosine_similarity(a, b, epsilon=1e-8)",
        trap="Of a vector of 0 optax returns nan, unless it is given an epsilon.",
        naive="y = optax.cosine_similarity(a, b)",
        given={"a": [[0.0, 0.0], [3.0, 4.0]], "b": [[1.0, 2.0], [2.0, 1.0]]},
        check="value",
    ),
]

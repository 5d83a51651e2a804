"""Answers to the exercises: right ones in several styles, and wrong ones with the hint they get.

An answer is what fills the gaps (...) of a starter, in their order, and perhaps a line at the end
of the file. A text that begins with "|" is a block in the place of the gap's whole line.
"""

import re
import textwrap

from jaxnet.exercises.files import STARTERS

GAP = re.compile(r"(?<=[ (])\.\.\.(?=\)?(?:  #.*)?$)", re.MULTILINE)


def source(number, answer):
    """The file of an exercise with its gaps filled; a text in place of a tuple is a whole file."""
    text = (STARTERS / f"{number}.txt").read_text()
    if isinstance(answer, str):
        return text[: text.index('"""', 3) + 4] + textwrap.dedent(answer)
    docstring, code = text[: text.index('"""', 3)], text[text.index('"""', 3) :]
    count = len(GAP.findall(code))
    gaps, after = iter(answer[:count]), "".join(answer[count:])
    lines = []
    for line in code.splitlines():
        if not GAP.search(line):
            lines.append(line)
            continue
        filled = next(gaps)
        if filled.startswith("|"):
            indent = line[: len(line) - len(line.lstrip())]
            lines += textwrap.indent(textwrap.dedent(filled[1:]).strip(), indent).splitlines()
        else:
            lines.append(GAP.sub(lambda _, filled=filled: filled, line))
    assert next(gaps, None) is None
    return docstring + "\n".join(lines) + f"\n{after}\n"


G = "2 * (y_pred - y)"
W1 = "x.T @ np.where(h < 0, 0, {} @ params['w2'].T)"
STEP = "{'w1': params['w1'] - rate * grad_w1, 'w2': params['w2'] - rate * grad_w2}"
MASKED = "jnp.where(h < 0, 0, grad_h)"
LOSS3 = "jnp.square(jnp.maximum(x @ params['w1'], 0) @ params['w2'] - y).sum()"
GRAD3 = "jax.grad(loss)(params, x, y)"
BWD = "(jnp.where(jnp.abs(kept) <= 1, grad, 0),)"
FWD = "(quantize(x), x)"
MODEL = (
    "nnx.Sequential(nnx.Linear(d_in, hidden, rngs=rngs), nnx.relu, "
    "nnx.Linear(hidden, d_out, rngs=rngs))"
)
LOSS5 = "jnp.square(nnx.merge(graphdef, params)(x) - y).sum()"


def step6(
    update="updates, opt_state = optimizer.update(grads, opt_state, params)",
    result="optax.apply_updates(params, updates), opt_state, loss",
    after="step = jax.jit(step)",
):
    """Exercise 06."""
    body = f"""|
    loss, grads = jax.value_and_grad(loss_fn)(params, x, y)
    {update}
    return {result}
    """
    return "optimizer.init(params)", body, after


LAYERS7 = """|
self.linear1 = nnx.Linear(d_in, hidden, rngs=rngs)
self.linear2 = nnx.Linear(hidden, d_out, rngs=rngs)
self.skip = nnx.Linear(d_in, d_out, use_bias=False, rngs=rngs)
"""
CALL7 = "self.linear2(nnx.relu(self.linear1(x))) + self.skip(x)"


def loop8(condition="i < repeats", apply="jax.nn.relu(h @ params['w2'])", times=3):
    """The loop of exercise 08."""
    return f"""|
    for i in range({times}):
        h = jnp.where({condition}, {apply}, h)
    """


DROPOUT = "jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)"
TWICE = "(lambda k: (dropout(k[0], x, rate), dropout(k[1], x, rate)))(jax.random.split(key))"
MERGE = "nnx.merge(graphdef, params, stats, copy=True)"
STATS = "nnx.state(merged, nnx.BatchStat)"
STEP11 = """
def step(params, x, y, rate):
    value, grads = jax.value_and_grad(loss)(params, x, y)
    return jax.tree.map(lambda p, g: p - rate * g, params, grads), value

"""


def fit11(
    make="step = jax.jit(step)",
    inside="",
    call="step(params, x, y, rate)",
    step=STEP11,
    append="losses.append(value)",
):
    """The loop of exercise 11."""
    loop = "for (x, y), rate in zip(batches, rates):\n"
    body = "\n".join(filter(None, [inside, f"params, value = {call}", append]))
    return "|losses = []\n" + step + make + "\n" + loop + textwrap.indent(body, "    ")


def fit12(
    body="return new, value",
    xs="(xs, ys)",
    use="x, y = batch",
    sign="-",
    end="return jax.lax.scan(body, params, (xs, ys))",
):
    """The loop of exercise 12."""
    return f"""|
    def body(params, batch):
        {use}
        value, grads = jax.value_and_grad(loss)(params, x, y)
        new = jax.tree.map(lambda p, g: p {sign} rate * g, params, grads)
        {body}

    {end}
    """


LOOP12 = """
for x, y in zip(xs, ys):
    params, value = step(params, (x, y))
    losses.append(value)
return params, jax.numpy.stack(losses)
"""
NUMBERS12 = LOOP12.replace("\n", "\n    ").replace("append(value)", "append(float(value))")
NUMBERS12 = NUMBERS12.replace("stack", "array")
PRODUCT = (
    "jnp.matmul(a.astype(jnp.bfloat16), b.astype(jnp.bfloat16), preferred_element_type=jnp.float32)"
)
TRAIN13 = """|
master = w.astype(jnp.float32)
for grad in grads:
    master = master - rate * grad
return master.astype(jnp.bfloat16)
"""
LOW13 = "jax.lax.scan(lambda w, g: ((w - rate * g).astype(jnp.bfloat16), None), w, grads)[0]"
PUSH = "buffer.at[i % len(buffer)].set(row)"
DONATE = "push = jax.jit(push, donate_argnums=0)"
FILL = """|
for i, row in enumerate(rows):
    buffer = push(buffer, i, row)
return buffer
"""


def train15(sign="-", steps="STEPS", result="loss(params, x, y)"):
    """The training of exercise 15."""
    return f"""|
    for _ in range({steps}):
        before, grads = jax.value_and_grad(loss)(params, x, y)
        params = jax.tree.map(lambda p, g: p {sign} rate * g, params, grads)
    return {result}
    """


def many15(one="train(loss, params, rate, x, y)", inner="(None, 0)", outer="(0, None)"):
    """The two maps of exercise 15."""
    return f"""|
    def one(params, rate):
        return {one}

    return jax.vmap(jax.vmap(one, in_axes={inner}), in_axes={outer})(params, rates)
    """


def place16(
    x="PartitionSpec('rows')",
    y="PartitionSpec('rows')",
    params="PartitionSpec()",
    devices="jax.device_count()",
    types="(AxisType.Auto,)",
):
    """The placement of exercise 16."""
    return f"""|
    mesh = jax.make_mesh(({devices},), ("rows",), {types}, devices=jax.devices()[:{devices}])
    put = lambda a, spec: jax.device_put(a, NamedSharding(mesh, spec))
    return {{"w": put(params["w"], {params})}}, put(x, {x}), put(y, {y})
    """


def grad16(loss="jnp.square(x @ params['w'] - y).mean()", result="found"):
    """The gradient of exercise 16."""
    return f"""|
    found = jax.jit(jax.value_and_grad(lambda params: {loss}))(params)
    return {result}
    """


def sharded16(loss_by, grad_by, scale="1"):
    """The gradient of exercise 16 by shard_map."""
    return f"""|
    mesh = x.sharding.mesh
    rows = PartitionSpec("rows")

    def local(params, x, y):
        loss, grad = jax.value_and_grad(lambda p: jnp.square(x @ p["w"] - y).mean())(params)
        return {loss_by}, jax.tree.map(lambda g: {grad_by} * {scale}, grad)

    specs = (PartitionSpec(), rows, rows), PartitionSpec()
    f = jax.shard_map(local, mesh=mesh, in_specs=specs[0], out_specs=specs[1], check_vma=False)
    return f(params, x, y)
    """


# number -> answers that are right
RIGHT = {
    "01": [
        (f"h_relu.T @ ({G})", W1.format(f"({G})")),
        """
        import numpy as np


        def value_and_grad(params, x, y):
            w1, w2 = params["w1"], params["w2"]
            h = np.einsum("nd,dh->nh", x, w1)
            r = np.einsum("nh,ho->no", h * (h > 0), w2) - y
            back = 2 * np.einsum("no,ho->nh", r, w2)
            back[h <= 0] = 0
            grads = {"w2": 2 * np.einsum("nh,no->ho", h * (h > 0), r)}
            return float(np.sum(r**2)), grads | {"w1": np.einsum("nd,nh->dh", x, back)}
        """,
    ],
    "02": [(MASKED, STEP), ("grad_h.at[h < 0].set(0)", STEP)],
    "03": [
        (LOSS3, GRAD3),
        (
            "jnp.sum((jax.nn.relu(x @ params['w1']) @ params['w2'] - y) ** 2)",
            "jax.value_and_grad(loss)(params, x, y)[1]",
        ),
    ],
    "04": [(FWD, BWD), ("(jnp.round(x), jnp.abs(x) <= 1)", "(kept * grad,)")],
    "05": [(MODEL, LOSS5), (MODEL.replace("nnx.relu", "lambda h: jnp.where(h < 0, 0, h)"), LOSS5)],
    "06": [
        step6(),
        """
           import jax
           import jax.numpy as jnp
           import optax

           optimizer = optax.chain(optax.scale_by_adam(), optax.scale(-0.01))
           init = optimizer.init


           @jax.jit
           def step(params, opt_state, x, y):
               def loss(p):
                   return jnp.sum((jax.nn.relu(x @ p["w1"]) @ p["w2"] - y) ** 2)

               value, grads = jax.value_and_grad(loss)(params)
               updates, opt_state = optimizer.update(grads, opt_state)
               return jax.tree.map(jnp.add, params, updates), opt_state, value
           """,
    ],
    "07": [(LAYERS7, CALL7)],
    "08": [
        (loop8(),),
        (
            (
                "jax.lax.fori_loop(0, 3, lambda i, h: jax.lax.cond(i < repeats, lambda h: "
                "jax.nn.relu(h @ params['w2']), lambda h: h, h), h)"
            ),
        ),
        (
            (
                "jax.lax.switch(repeats, [lambda h, n=n: __import__('functools').reduce(lambda h, "
                "_: jax.nn.relu(h @ params['w2']), range(n), h) for n in range(4)], h)"
            ),
        ),
    ],
    "09": [
        (DROPOUT, TWICE),
        (
            "x * (jax.random.uniform(key, x.shape) >= rate) / (1 - rate)",
            "tuple(dropout(jax.random.fold_in(key, i), x, rate) for i in (5, 6))",
        ),
    ],
    "10": [
        (MERGE, STATS, "params, stats"),
        """
        import jax.numpy as jnp
        import optax
        from flax import nnx


        def step(model, x, y, rate):
            def loss_fn(model):
                return jnp.sum((model(x) - y) ** 2)

            optimizer = nnx.Optimizer(model, optax.sgd(rate), wrt=nnx.Param)
            loss, grads = nnx.value_and_grad(loss_fn)(model)
            optimizer.update(model, grads)
            return loss
        """,
    ],
    "11": [
        (fit11(),),
        (
            fit11(
                make="step = jax.jit(step, static_argnums=())",
                call="step(params, x, y, jax.numpy.asarray(rate))",
            ),
        ),
    ],
    "12": [
        (fit12(),),
        (fit12(end="return jax.jit(lambda p: jax.lax.scan(body, p, (xs, ys)))(params)"),),
    ],
    "13": [
        (PRODUCT, TRAIN13),
        (
            "jnp.einsum('nk,km->nm', *map(jnp.bfloat16, (a, b)), preferred_element_type='float32')",
            "(w.astype('float32') - rate * grads.sum(axis=0)).astype('bfloat16')",
        ),
    ],
    "14": [
        (PUSH, FILL, DONATE),
        """
        from functools import partial

        import jax


        @partial(jax.jit, donate_argnames="buffer")
        def push(buffer, i, row):
            return jax.lax.dynamic_update_slice(buffer, row[None], (i % buffer.shape[0], 0))


        def fill(buffer, rows):
            return jax.lax.fori_loop(0, len(rows), lambda i, b: push(b, i, rows[i]), buffer)
        """,
    ],
    "15": [
        (train15(), many15()),
        (
            train15(),
            "jax.vmap(lambda p: jax.vmap(lambda r: train(loss, p, r, x, y))(rates))(params)",
        ),
    ],
    "16": [
        (place16(), grad16()),
        (place16(), sharded16("jax.lax.pmean(loss, 'rows')", "jax.lax.pmean(g, 'rows')")),
    ],
}

# number -> answers that are wrong, and a part of the hint that each must get
WRONG = {
    "01": [
        (("h_relu.T @ (y_pred - y)", W1.format("(y_pred - y)")), "the factor 2 is missing"),
        ((f"h_relu.T @ ({G})", f"x.T @ (({G}) @ params['w2'].T)"), "ReLU is missing on the way"),
        ((f"({G}).T @ h_relu", W1.format(f"({G})")), "(3, 5): it is transposed"),
        ((f"h_relu.T @ ({G}) / y.size", W1.format(f"({G})") + " / y.size"), "that of the mean"),
        (("h_relu.T @ (2 * (y - y_pred))", W1.format("(2 * (y - y_pred))")), "the sign is wrong"),
        (
            (f"h_relu.T @ ({G}) / len(x)", W1.format(f"({G})") + " / len(x)"),
            "divided by the number of rows",
        ),
        ((f"h.T @ ({G})", W1.format(f"({G})")), "the gradient of w2 takes h"),
        (
            (f"3 * h_relu.T @ ({G})", W1.format(f"({G})")),
            "gradient w2 is the reference's times 3",
        ),
        (
            (
                f"h_relu.T @ ({G})",
                f"x.T @ (lambda g: np.where(g < 0, 0, g))(({G}) @ params['w2'].T)",
            ),
            "mask is that of the gradient",
        ),
        (
            (f"h_relu.T @ ({G})", f"(h_relu.T @ ({G})).astype('float32')"),
            "shape (7, 5), got (5, 3)",
        ),
        ((f"(h_relu.T @ ({G})).astype('float32')", W1.format(f"({G})")), "float32"),
        ((f"h_relu.T @ ({G}) + np.random.rand()", W1.format(f"({G})")), "two calls with the same"),
    ],
    "02": [
        ((MASKED, "params; new_params.update(" + STEP + ")"), "`params` was changed"),
        ((MASKED, "{'w1': grad_w1, 'w2': grad_w2}"), "the gradients are returned"),
        ((MASKED, STEP.replace("rate * ", "")), "the rate is missing"),
        (("jnp.where(h < 0, grad_h, 0)", STEP), "mask is the wrong way round"),
        (("grad_h; grad_h[h < 0] = 0", STEP), "cannot be written to"),
        ((MASKED, STEP.replace("- rate", "+ rate")), "the step goes up"),
        (
            ("grad_h.at[h < 0].set(0); grad_h = grad_y_pred @ params['w2'].T", STEP),
            "ReLU is missing",
        ),
        ((MASKED, "params; params['w1'] - rate * grad_w1"), "nothing has moved"),
        (
            ("jnp.where(h < 0, 0, grad_y_pred @ (params['w2'] - rate * grad_w2).T)", STEP),
            "stale order",
        ),
        (
            (
                "__import__('numpy').where(h < 0, 0, grad_h)",
                f"__import__('jax').tree.map(__import__('numpy').asarray, {STEP})",
            ),
            "of type ndarray",
        ),
    ],
    "03": [
        ((LOSS3.replace("sum()", "mean()"), GRAD3), "loss is the mean"),
        (("0.5 * " + LOSS3, GRAD3), "half of the sum"),
        ((LOSS3.replace(".sum()", ""), GRAD3), "must end in .sum()"),
        ((LOSS3, "jax.grad(loss, argnums=1)(params, x, y)"), "with respect to x"),
        ((LOSS3, "jax.value_and_grad(loss)(params, x, y)"), "the gradient alone"),
        ((LOSS3, "jax.grad(loss)"), "got a function: is it not called?"),
        ((LOSS3, "jax.grad(loss(params, x, y))"), "takes the function, not its value"),
        ((f"float({LOSS3})", GRAD3), "leave it as an array"),
        ((f"{LOSS3}.item()", GRAD3), "or .item()?"),
        ((f"{LOSS3}.backward()", GRAD3), "returns the gradient of a function"),
        ((LOSS3.replace(", 0)", ").clamp(min=0)").replace("maximum", "asarray"), GRAD3), "tensors"),
        ((f"{LOSS3} ** 0.5", GRAD3), "no known mistake: loss is"),
        ((LOSS3.replace("jnp.max", "__import__('numpy').max"), GRAD3), "write jnp, not np"),
        (("jnp.square(x @ params['w1'] @ params['w2'] - y).sum()", GRAD3), "no ReLU between"),
        ((LOSS3, "jax.tree.map(lambda g: 2 * g, " + GRAD3 + ")"), "the reference's times 2"),
        ((LOSS3, "jax.tree.map(lambda g: -g, " + GRAD3 + ")"), "sign of"),
        (
            (
                LOSS3,
                (
                    "{k: jax.tree.map(lambda d: (loss(params | {k: params[k] + d}, x, y) - loss("
                    "params, x, y)), 0) for k in params}"
                ),
            ),
            "must have shape",
        ),
    ],
    "04": [
        ((FWD, "(0 * grad,)"), "backward rule is not used"),
        ((FWD, "(1.0 * (jnp.abs(kept) <= 1),)"), "does not use the gradient that comes in"),
        ((FWD, "(grad,)"), "passes everywhere"),
        ((FWD, BWD.replace("jnp.abs(kept)", "kept")), "without its sign"),
        (("(quantize(x), quantize(x))", BWD), "on the rounded value"),
        ((FWD, "(jnp.clip(grad, -1, 1),)"), "the gradient is clipped"),
        (("(x, quantize(x))", BWD), "its pair the wrong way round"),
        ((FWD, BWD[1:-2]), "a tuple with one gradient for each argument"),
        (("quantize(x)", BWD), "quantize_fwd returns a pair"),
    ],
    "05": [
        ((MODEL, LOSS5.replace("sum", "mean")), "the mean of the squares"),
        ((MODEL.replace("nnx.relu, ", "lambda h: h, "), LOSS5), "layer 1: no activation"),
        ((MODEL.replace("relu", "tanh"), LOSS5), "layer 1: the activation is tanh"),
        ((MODEL[:-1] + ", nnx.relu)", LOSS5), "layer 3: a ReLU after"),
        (
            (MODEL.replace("hidden, rngs", "hidden, use_bias=False, rngs"), LOSS5),
            "layers/0/bias must be there too",
        ),
        ((MODEL.replace("nnx.relu, ", ""), LOSS5), "where nnx.relu counts too"),
        ((MODEL.replace("nnx.relu", "nnx.ReLU()"), LOSS5), "an activation is no layer"),
        ((MODEL.replace("nnx.relu", "nnx.relu()"), LOSS5), "an activation is no layer"),
        ((MODEL.replace(", rngs=rngs", ""), LOSS5), "give it rngs=rngs"),
        ((MODEL.replace("Sequential(", "Sequential([")[:-1] + "])", LOSS5), "given one by one"),
        ((MODEL, LOSS5.replace("nnx.merge(graphdef, params)", "params")), "params are no model"),
        ((MODEL, "jnp.square(model(x) - y).sum()"), "the gradient is zero"),
        ((MODEL, LOSS5.replace(".sum()", "")), "must end in .sum()"),
    ],
    "06": [
        (step6(after=""), "not compiled as a whole"),
        (step6("updates, _ = optimizer.update(grads, opt_state)"), "Adam begins anew"),
        (
            step6(result="jax.tree.map(lambda p, u: p - u, params, updates), opt_state, loss"),
            "the step goes up",
        ),
        (
            step6(result="optax.apply_updates(params, grads), opt_state, loss"),
            "the gradients are added",
        ),
        (step6("updates = optimizer.update(grads, opt_state)"), "two things"),
        (step6(result="params, opt_state, loss"), "do not move"),
        (step6(result="updates, opt_state, loss"), "in the place of the parameters"),
        (
            step6(
                result="jax.tree.map(lambda p, u: p - 0.01 * u, params, updates), opt_state, loss"
            ),
            "once more",
        ),
        (
            step6(
                after="inner = step\nstep = lambda *given: jax.jit(lambda *a: inner(*a))(*given)"
            ),
            "each call compiles anew",
        ),
        (step6(after="loss_fn = jax.jit(loss_fn)"), "not compiled as a whole"),
        (step6(result="loss, optax.apply_updates(params, updates), opt_state"), "in this order"),
        (
            step6(result="optax.apply_updates(params, updates), loss"),
            "must return a tuple (new_params, new_opt_state, loss), got a tuple of 2",
        ),
    ],
    "07": [
        ((LAYERS7, CALL7.split(" + ")[0]), "skip: it is not used"),
        ((LAYERS7, CALL7.replace("nnx.relu", "")), "linear1: no activation"),
        ((LAYERS7, f"nnx.relu({CALL7})"), "a second ReLU"),
        (
            (
                LAYERS7,
                CALL7.replace("self.skip(x)", "nnx.Linear(7, 3, rngs=nnx.Rngs(0))(x)").replace(
                    "nnx.relu", "jnp.tanh"
                ),
            ),
            "no known mistake",
        ),
        ((LAYERS7.replace("self.skip = ", "skip = "), CALL7.split(" + ")[0]), "is not found"),
        ((LAYERS7.replace("use_bias=False, ", ""), CALL7), "skip/bias must not be there"),
        ((LAYERS7.replace("use_bias", "bias"), CALL7), "it is use_bias=False"),
        ((LAYERS7.replace("linear1 ", "fc1 "), CALL7), "a layer has its name on `self`"),
        ((LAYERS7, CALL7, "Net.forward = Net.__call__\ndel Net.__call__"), "calls forward"),
        ((LAYERS7, CALL7.replace("+", "-")), "skip: it is subtracted"),
    ],
    "08": [
        (
            ("|for i in range(repeats):\n    h = jax.nn.relu(h @ params['w2'])",),
            "range and if cannot",
        ),
        (
            ("jax.lax.fori_loop(0, repeats, lambda i, h: jax.nn.relu(h @ params['w2']), h)",),
            "cannot be differentiated backwards",
        ),
        ((loop8(condition="i <= repeats"),), "once too often"),
        ((loop8(condition="True"),), "3 times whatever"),
        ((loop8(apply="h @ params['w2']"),), "no ReLU after the middle layer"),
        ((loop8(condition="i >= repeats"),), "where it must not be"),
        ((loop8(condition="i < repeats", times=1),), "once at most"),
        (
            ("jax.lax.cond(repeats > 0, jax.nn.relu(h @ params['w2']), h)",),
            "takes functions, not values",
        ),
        ((loop8(condition="i + 1 < repeats"),), "once too rarely"),
        ((loop8(apply="jax.nn.relu(h @ params['w2'].T)"),), "transposed weight w2"),
    ],
    "09": [
        ((DROPOUT.replace(" / (1 - rate)", ""), TWICE), "the mean stays what it was"),
        ((DROPOUT.replace("key, 1 - rate", "key, rate"), TWICE), "True with probability p"),
        ((DROPOUT, "(dropout(key, x, rate), dropout(key, x, rate))"), "a key is used twice"),
        (
            (DROPOUT, "(dropout(key, x, rate), dropout(jax.random.split(key)[0], x, rate))"),
            "after it was split",
        ),
        ((DROPOUT.replace("(key", "(jax.random.key(0)"), TWICE), "two keys give the same mask"),
        ((DROPOUT.replace("x.shape", "(len(x), 1)"), TWICE), "whole rows"),
        (
            ("x * (__import__('numpy').random.rand(*x.shape) >= rate) / (1 - rate)", TWICE),
            "same key differ",
        ),
        (("x", TWICE), "nothing is set to 0"),
        (
            (
                DROPOUT,
                (
                    "(lambda a, b: (dropout(a, x, rate), dropout(b, dropout(a, x, rate), rate)))"
                    "(*jax.random.split(key))"
                ),
            ),
            "twice/second is the dropout of the first",
        ),
        ((DROPOUT, "dropout(key, x, rate)"), "must return a tuple (first, second)"),
    ],
    "10": [
        ((MERGE, "stats", "params, stats"), "the running statistics stay as they were"),
        ((MERGE, STATS, "params"), "the running statistics stay as they were"),
        ((MERGE, STATS, "stats"), "the parameters stay as they were"),
        ((MERGE, "nnx.state(merged)", "params, stats"), "where stats holds no parameters"),
        ((MERGE, "merged", "params, stats"), "nnx.update takes states"),
        ((MERGE, f"(merged(x), {STATS})[1]", "params, stats"), "updated twice"),
        ((f"{MERGE}; merged.eval()", STATS, "params, stats"), "evaluation mode"),
        (("model", STATS, "params, stats"), "a variable from outside is changed"),
        ((MERGE.replace(", copy=True", ""), STATS, "params, stats"), "copy=True"),
    ],
    "11": [
        ((fit11(make=""),), "without jax.jit"),
        (
            (
                fit11(
                    make="",
                    inside="jitted = jax.jit(lambda *a: step(*a))",
                    call="jitted(params, x, y, rate)",
                ),
            ),
            "once for each step",
        ),
        ((fit11(make="step = jax.jit(step, static_argnums=3)"),), "once for each rate and shape"),
        (
            (
                fit11(
                    make="",
                    inside="jitted = jax.jit(lambda p, x, y: step(p, x, y, rate))",
                    call="jitted(params, x, y)",
                ),
            ),
            "once for each step",
        ),
        (
            (
                fit11(
                    make="rate, whole = rates[0], step\nstep = jax.jit(lambda *a: whole(*a, 0.3))",
                    call="step(params, x, y)",
                ),
            ),
            "the rate of the first step",
        ),
        ((fit11(step=STEP11.replace("p - rate", "p + rate")),), "the step goes up"),
        (
            (
                fit11(
                    make="whole = step\nstep = jax.jit(lambda x, y, r: whole(params, x, y, r))",
                    call="step(x, y, rate)",
                ),
            ),
            "captures params",
        ),
        (
            (
                fit11(
                    step=STEP11.replace("    return", "    losses.append(value)\n    return"),
                    append="",
                ),
            ),
            "losses/0 is a tracer: a value of a traced function was kept",
        ),
        (
            (
                fit11(
                    make="step = jax.jit(lambda loss, *given, whole=step: whole(*given))",
                    call="step(loss, params, x, y, rate)",
                ),
            ),
            "capture the loss",
        ),
        ((fit11(append=""),), "losses must be"),
    ],
    "12": [
        ((fit12(body="return params, value"),), "the carry never changes"),
        ((fit12(use="x, y = xs[0], ys[0]"),), "the first batch is used"),
        ((fit12(body="return new, loss(new, x, y)"),), "those after the updates"),
        (
            (
                fit12(
                    end="params, losses = jax.lax.scan(body, params, (xs, ys))\n    "
                    "return params, losses[-1]"
                ),
            ),
            "only the last loss",
        ),
        ((fit12(end="losses, step = [], body" + LOOP12.replace("\n", "\n    ")),), "op by op"),
        (
            (fit12(end="losses, step = [], jax.jit(body)" + LOOP12.replace("\n", "\n    ")),),
            "pays for a dispatch",
        ),
        (
            (
                fit12(
                    end="@jax.jit\n    def whole(params, xs, ys, step=body):\n        losses = []"
                    + LOOP12.replace("\n", "\n        ")
                    + "\n    return whole(params, xs, ys)"
                ),
            ),
            "is unrolled",
        ),
        (
            (fit12(use="x, y = batch; params = first").replace("|", "|\n    first = params", 1),),
            "each step begins at the first params",
        ),
        (
            (fit12(end="return jax.vmap(lambda x, y: body(params, (x, y)))(xs, ys)"),),
            "as jax.vmap does",
        ),
        (
            (fit12().replace("(params, batch)", "(params, x, y)").replace("x, y = batch", ""),),
            "where x is one part of xs",
        ),
        (
            (
                fit12(
                    body="losses.append(value); return new, None",
                    end="params, _ = jax.lax.scan(body, params, (xs, ys))\n"
                    "    return params, losses",
                ).replace("|", "|\n    losses = []", 1),
            ),
            "kept outside it",
        ),
        ((fit12(body="return new, float(value)"),), "leave it as an array"),
        ((fit12(body="return new"),), "returns (the new carry"),
        ((fit12(end="losses, step = [], jax.jit(body)" + NUMBERS12),), "pays for a dispatch"),
    ],
    "13": [
        (("a @ b", TRAIN13), "product: the operands are not rounded"),
        (
            ("(a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16)).astype(jnp.float32)", TRAIN13),
            "product: the result has been rounded",
        ),
        (("a.astype(jnp.bfloat16) @ b", TRAIN13), "product: b is not rounded"),
        (
            ("jnp.matmul(a, b, preferred_element_type=jnp.bfloat16)", TRAIN13),
            "it is the result that is rounded",
        ),
        ((PRODUCT.replace("bfloat16", "float16"), TRAIN13), "rounded to float16"),
        ((PRODUCT.replace("astype", "to"), TRAIN13), ".astype(dtype)"),
        ((PRODUCT, LOW13), "train: the weights hardly move"),
        (
            (PRODUCT, TRAIN13.replace("master.astype(jnp.bfloat16)", "master")),
            "train must return bfloat16, got float32",
        ),
        ((PRODUCT, TRAIN13.replace("- rate", "+ rate")), "train: the steps go up"),
    ],
    "14": [
        ((PUSH, FILL), "not donated"),
        ((PUSH, FILL, "push = jax.jit(push, donate_argnums=2)"), "not donated"),
        ((PUSH.replace(" % len(buffer)", ""), FILL, DONATE), "a row past the end is lost"),
        ((PUSH.replace(".set", ".add"), FILL, DONATE), "the row is added"),
        (
            (PUSH, FILL.replace("buffer = push", "new = push"), DONATE),
            "donated buffer is used again",
        ),
        (("|buffer[i % len(buffer)] = row\nreturn buffer", FILL), "cannot be written to"),
        (
            (PUSH, "buffer.at[jax.numpy.arange(len(rows))].set(rows)", DONATE),
            "fill: the rows past the end are lost",
        ),
        ((f"|{PUSH}", FILL, DONATE), "is a `return` missing?"),
        ((PUSH, FILL.replace("enumerate(rows)", "enumerate(rows, 1)"), DONATE), "begins at 1"),
    ],
    "15": [
        ((train15(), many15(inner="(0, None)", outer="(None, 0)")), "the axes are the wrong way"),
        (
            (train15(), "jax.vmap(lambda p, r: train(loss, p, r, x, y))(params, rates)"),
            "each pair needs two",
        ),
        (
            (
                train15(),
                (
                    "jax.numpy.array([[train(loss, {'w': w}, r, x, y) for r in rates] for w in "
                    "params['w']])"
                ),
            ),
            "a Python loop over networks is left",
        ),
        ((train15(result="before"), many15()), "before the last step"),
        ((train15("+"), many15()), "the steps go up"),
        (
            (
                train15(),
                (
                    "jax.numpy.stack([jax.vmap(lambda p: train(loss, p, r, x, y))(params) "
                    "for r in rates], axis=1)"
                ),
            ),
            "for both params and rates",
        ),
        ((train15(result="float(loss(params, x, y))"), many15()), "leave it as an array"),
        ((train15(), many15(one="train(loss, params, rates[0], x, y)")), "the first rate is used"),
    ],
    "16": [
        (
            (place16(types="None"), grad16().replace("jax.jit", "")),
            "the axes of the mesh are explicit",
        ),
        (
            ("jax.device_put((params, x, y), PartitionSpec('rows'))", grad16()),
            "a PartitionSpec alone",
        ),
        (
            (place16(), grad16(result="found[0], jax.lax.psum(found[1], 'rows')")),
            "nothing has to be added up by hand",
        ),
        ((place16(y="PartitionSpec()"), grad16()), "holds all rows of y"),
        ((place16(), grad16(loss="jnp.square(x @ params['w'] - y).sum()")), "loss is the sum"),
        ((place16(x="PartitionSpec()", y="PartitionSpec()"), grad16()), "holds all rows of x"),
        ((place16(x="PartitionSpec(None, 'rows')"), grad16()), "the columns of x are divided"),
        (("(params, x, y)", grad16()), "params is on 1 of 8 devices"),
        ((place16(), sharded16("loss", "g")), "one device's 3 rows"),
        (
            (place16(), sharded16("jax.lax.psum(loss, 'rows')", "jax.lax.psum(g, 'rows')")),
            "the devices' means are added",
        ),
        ((place16(params="PartitionSpec('rows')"), grad16()), "params is divided"),
        ((place16(devices="4"), grad16()), "on 4 of 8 devices"),
        (
            (place16(), grad16(result="found[0], {'w': found[1]['w'] / 3}")),
            "the reference's times 1/3",
        ),
    ],
}

"""PyTorch's weights are read and written without PyTorch; what is no Linear layer is refused."""

import json
import os
import signal
import string
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save, save_file

from jaxnet.export import torch_weights
from jaxnet.spec import Spec


def linear(rng, d_in, d_out, dtype="float32"):
    return rng.normal(size=(d_out, d_in)).astype(dtype), rng.normal(size=d_out).astype(dtype)


def write(path, sizes, names, dtype="float32", bias=True):
    """Write Linear layers under `names`; return them as w1, b1, ..."""
    rng, tensors, params = np.random.default_rng(0), {}, {}
    for k, name in enumerate(names, start=1):
        w, b = linear(rng, sizes[k - 1], sizes[k], dtype)
        tensors[f"{name}.weight".removeprefix(".")] = w
        params[f"w{k}"], params[f"b{k}"] = w.T, b if bias else np.zeros_like(b)
        if bias:
            tensors[f"{name}.bias".removeprefix(".")] = b
    save_file(tensors, path)
    return params


def header(value):
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text


def assert_same(got, want, dtype="float32"):
    assert list(got) == list(want)
    for name, leaf in want.items():
        assert got[name].dtype == dtype
        assert got[name].flags.c_contiguous
        np.testing.assert_array_equal(got[name], leaf)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_is_written_is_read_back(tmp_path, dtype):
    params = Spec((7, 5, 4, 3), bias=True).init(0, dtype)
    (tmp_path / "m.safetensors").write_bytes(torch_weights.save([params]))
    assert_same(torch_weights.read(tmp_path / "m.safetensors"), params, dtype)


def test_the_file_has_the_names_and_the_layout_of_a_sequential(tmp_path):
    (tmp_path / "m").write_bytes(torch_weights.save([Spec((7, 5, 3), bias=True).init(0)]))
    with safe_open(tmp_path / "m", "np") as file:
        shapes = {name: file.get_tensor(name).shape for name in sorted(file.keys())}
        assert file.metadata() == {"format": "pt"}
    assert shapes == {"0.bias": (5,), "0.weight": (5, 7), "2.bias": (3,), "2.weight": (3, 5)}


def test_missing_biases_are_not_written_and_read_as_zeros(tmp_path):
    params = Spec((7, 5, 3)).init(0)
    (tmp_path / "m").write_bytes(torch_weights.save([params]))
    got = torch_weights.read(tmp_path / "m")
    want = {"w1": params["w1"], "b1": np.zeros(5), "w2": params["w2"], "b2": np.zeros(3)}
    assert_same(got, want)


@pytest.mark.parametrize(
    "names", [["2", "10", "11"], ["net.9.a", "net.10.a", "net.11.a"], ["fc1", "fc2", "fc10"]]
)
def test_layers_come_in_the_natural_order_of_their_names(tmp_path, names):
    want = write(tmp_path / "m", (7, 5, 4, 3), names)
    assert_same(torch_weights.read(tmp_path / "m"), want)


def test_a_single_linear_layer_without_a_name(tmp_path):
    want = write(tmp_path / "m", (7, 3), [""])
    assert_same(torch_weights.read(tmp_path / "m"), want)


def test_layers_are_named_in_their_order_each_or_by_a_prefix(tmp_path):
    want = write(tmp_path / "m", (7, 5, 4, 3), ["z.body.0", "z.body.2", "head"])
    for layers in (["z.body", "head"], ["z.body.0", "z.body.2", "head"], ("z", "head")):
        assert_same(torch_weights.read(tmp_path / "m", layers), want)
    body = {name: want[name] for name in ("w1", "b1", "w2", "b2")}
    assert_same(torch_weights.read(tmp_path / "m", ["z"]), body)
    with pytest.raises(ValueError, match="no layer 'tail' in it; it has head, z"):
        torch_weights.read(tmp_path / "m", ["tail"])
    with pytest.raises(ValueError, match="name each layer once, got 'head' again"):
        torch_weights.read(tmp_path / "m", ["z", "head", "head"])


@pytest.mark.parametrize(
    ("sizes", "names"),
    [
        ((7, 5, 4, 3), ["z.body.0", "z.body.2", "head"]),  # by the shapes alone
        ((7, 5, 5, 3), ["a_in", "later", "deep"]),
        ((5, 5, 5, 5, 5), ["net.2", "net.10.a1", "net.10.a2", "net.11"]),  # by the numbers alone
        ((5, 5, 5, 3), ["enc.0", "enc.1", "dec"]),
        ((5, 5, 5), ["l9", "l10"]),
    ],
)
def test_the_order_is_the_only_one_that_numbers_and_shapes_allow(tmp_path, sizes, names):
    want = write(tmp_path / "m", sizes, names)
    assert torch_weights.layer_order(tmp_path / "m") == names
    assert_same(torch_weights.read(tmp_path / "m"), want)


@pytest.mark.parametrize(
    ("sizes", "names", "orders"),
    [
        (
            (7, 5, 5, 5, 3),
            ["a_in", "later", "deep", "out"],
            "`layers` a_in deep later out, or `layers` a_in later deep out",
        ),
        ((5, 5, 5), ["fc", "fc2"], "`layers` fc fc2, or `layers` fc2 fc"),
        (
            (4, 4, 4, 4),
            ["enc.0", "enc.2", "dec"],
            "`layers` dec enc.0 enc.2, or `layers` enc.0 dec enc.2, or `layers` enc.0 enc.2 dec",
        ),
        (
            (4,) * 9,
            list("abcdefgh"),
            "`layers` a b c d e f g h, or .*, or `layers` a b c d e g f h, or in another order",
        ),
        # a number that differs after the names do
        ((4, 5, 4, 5), ["b.1", "c.0", "a.2"], "`layers` a.2 c.0 b.1, or `layers` b.1 c.0 a.2"),
    ],
)
def test_an_order_that_names_and_shapes_leave_open_is_asked_for(tmp_path, sizes, names, orders):
    want = write(tmp_path / "m", sizes, names)
    with pytest.raises(ValueError, match=rf"allow more than one order; .*: {orders}$"):
        torch_weights.read(tmp_path / "m")
    assert_same(torch_weights.read(tmp_path / "m", names), want)


def test_an_order_is_asked_for_within_a_prefix_too(tmp_path):
    want = write(tmp_path / "m", (4, 4, 4, 4), ["net.b", "net.a", "tail"])
    with pytest.raises(ValueError, match=r"s` net.a net.b tail, or `layers` net.b net.a tail$"):
        torch_weights.read(tmp_path / "m", ["net", "tail"])
    assert_same(torch_weights.read(tmp_path / "m", ["net.b", "net.a", "tail"]), want)


@pytest.mark.parametrize("names", [["0", "1", "2"], ["a", "b", "c"], [f"n{i}" for i in range(12)]])
def test_layers_that_do_not_chain_are_refused_in_a_moment(tmp_path, names):
    rng = np.random.default_rng(0)
    sizes = dict.fromkeys(names, (4, 4)) | {names[-1]: (3, 3)}
    save_file({f"{k}.weight": rng.normal(size=s) for k, s in sizes.items()}, tmp_path / "m")
    with pytest.raises(ValueError, match=r"follow each other: .* \(3 to 3\); name .* `layers`"):
        torch_weights.read(tmp_path / "m")


def test_what_is_not_named_in_layers_may_be_anything(tmp_path):
    rng = np.random.default_rng(0)
    w, b = linear(rng, 4, 3)
    convolution = rng.normal(size=(2, 2, 3, 3))
    save_file({"conv.weight": convolution, "fc.weight": w, "fc.bias": b}, tmp_path / "m")
    assert_same(torch_weights.read(tmp_path / "m", ["fc"]), {"w1": w.T, "b1": b})
    with pytest.raises(ValueError, match=r"only, got 'conv.weight', F64 \(2, 2, 3, 3\)"):
        torch_weights.read(tmp_path / "m")


@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_half_precision_becomes_float32_exactly(tmp_path, stored):
    values = np.array([[0.5, -1.25, 3.0], [2.0**-14, 0.0, -96.0]], "<f4")  # exact in both
    data = values.astype("<f2") if stored == "F16" else (values.view("<u4") >> 16).astype("<u2")
    entry = {"dtype": stored, "shape": [2, 3], "data_offsets": [0, 12]}
    (tmp_path / "m").write_bytes(header({"weight": entry}) + data.tobytes())
    assert_same(torch_weights.read(tmp_path / "m"), {"w1": values.T, "b1": np.zeros(2)})


def test_mixed_precisions_become_the_widest(tmp_path):
    w, b = linear(np.random.default_rng(0), 4, 3)
    save_file({"weight": w.astype(float), "bias": b}, tmp_path / "m")
    assert_same(torch_weights.read(tmp_path / "m"), {"w1": w.T, "b1": b}, "float64")


W, B = np.zeros((3, 4), "float32"), np.zeros(3, "float32")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"0.weight": W, "1.weight": B, "1.bias": B}, r"only, got '1.weight', F32 \(3,\)"),
        ({"0.weight": W, "1.running_mean": B}, r"only, got '1.running_mean', F32 \(3,\)"),
        ({"0.weight": W, "0.bias": B, "0.scale": W}, r"only, got '0.scale', F32 \(3, 4\)"),
        ({"0.weight": W.astype(int)}, r"only, got '0.weight', I64 \(3, 4\)"),
        ({"0.weight": W[:0]}, r"only, got '0.weight', F32 \(0, 4\)"),
        ({"0.weight": W, "1.bias": B}, "a weight for each bias, got 1.bias alone"),
        ({"0.weight": W, "0.bias": B[:2]}, r"0.bias must have shape \(3,\), got \(2,\)"),
        ({}, "must hold Linear layers, got no entry"),
    ],
)
def test_what_is_no_linear_layer_is_refused_by_name(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "m")
    with pytest.raises(ValueError, match=f"m: .*{message}"):
        torch_weights.read(tmp_path / "m")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"name,value\n1,2\n" * 10,
        struct.pack("<Q", 2**62) + b"{}",  # a header of 4 exabytes
        struct.pack("<Q", 90_000_128) + b"{}",  # its first byte is that of a pickle
        header({"weight": {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}),
        header({"weight": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}) + b"1234",
        header({"weight": {"dtype": "X9", "shape": [1, 1], "data_offsets": [0, 4]}}) + b"1234",
        header(["weight"]),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ValueError, match="m: not a safetensors file, or damaged"):
        torch_weights.read(tmp_path / "m")


@pytest.mark.parametrize("content", [b"PK\x03\x04archive/data.pkl", b"\x80\x02}q\x00."])
def test_a_pickle_is_refused_with_how_to_convert_it(tmp_path, content):
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"got a pickle.*torch.save_file\(model.state_dict\(\)"):
        torch_weights.read(tmp_path / "model.pt")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"m\.safetensors: there is no such file"):
        torch_weights.read(tmp_path / "m.safetensors")


def test_an_order_that_cannot_be_found_ends_the_search(tmp_path):
    """24 square layers, and one that fits nowhere: each of 2^24 sets of layers could be tried."""
    square = np.zeros((3, 3), np.float32)
    tensors = {f"{name}.weight": square for name in string.ascii_lowercase[:24]}
    tensors["z.weight"] = np.zeros((5, 7), np.float32)
    path = tmp_path / "m.safetensors"
    path.write_bytes(save(tensors))
    signal.alarm(60)
    with pytest.raises(ValueError, match="the layers do not follow each other"):
        torch_weights.read(path)
    signal.alarm(0)


def test_too_many_layers_and_a_huge_file_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(save({f"{k}.weight": np.zeros((1, 1), np.float32) for k in range(1001)}))
    with pytest.raises(ValueError, match="must hold at most 1000 layers, got 1001"):
        torch_weights.read(path)
    os.truncate(path, 100 * 2**30)
    with pytest.raises(ValueError, match="must take at most"):
        torch_weights.read(path)

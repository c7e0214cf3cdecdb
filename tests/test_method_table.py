"""The table of methods: what each says, what each refuses."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import pickle
import re
from pathlib import Path

import pytest

from vdropkern import methods
from vdropkern._method import NOISE_PLACES
from vdropkern.functional import PRIORS
from vdropkern.methods import (
    ARD,
    MC,
    METHODS,
    Bernoulli,
    GaussianW,
    HierarchicalVD,
    Method,
    SparseVD,
    VariationalA,
    VariationalB,
)
from vdropkern.methods._describe import describe
from vdropkern.nn.places import PLACES

ALL = [cls() for cls in METHODS.values()]
BY_NAME = pytest.mark.parametrize("method", ALL, ids=lambda m: m.name)


def test_the_table_holds_every_method_once() -> None:
    assert len(METHODS) == len(set(METHODS.values()))
    assert all(METHODS[method.name] is type(method) for method in ALL)


def test_the_table_at_the_top_names_every_method() -> None:
    rows = re.findall(r"^\| `(\w+)`", methods.__doc__, re.MULTILINE)
    assert rows == [cls.__name__ for cls in METHODS.values()]


def test_generated_pages_are_current() -> None:
    path = Path(__file__).parents[1] / "docs" / "generate_methods.py"
    generator = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("pages", path))
    spec.loader.exec_module(generator)
    wanted = generator.pages()
    assert set(wanted) == {path.parent / "methods.md", *(path.parent / "methods").glob("*.md")}
    for page, text in wanted.items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name}: run make docs-methods"


@BY_NAME
def test_every_argument_is_documented(method: Method) -> None:
    entry = describe(type(method))
    for name, _ in entry.arguments:
        if name != "eval_mode":
            assert re.search(rf"\b{name}\b.*:", entry.text), f"{entry.cls}: {name} is not documented"


@BY_NAME
def test_method_says_all_a_layer_reads(method: Method) -> None:
    assert method.enters in PLACES
    assert set(method.noises) <= set(NOISE_PLACES)
    assert method.eval_mode == "mean"
    assert method.kl_prior is None or method.kl_prior in PRIORS
    if method.scale is not None and method.scale.bounds is None:
        assert method.alpha == pytest.approx(math.exp(method.scale.init))
    for words in (method.paper, method.formula, method.says_scale, method.says_prior, method.says_eval):
        assert isinstance(words, str) and words
    assert method.says_prunes and all(isinstance(row, str) for row in method.rows)


@BY_NAME
def test_noise_says_where_it_enters(method: Method) -> None:
    for noise in method.noises:
        assert dataclasses.replace(method, noise=noise).enters == NOISE_PLACES[noise]
    if method.noises:
        assert method.noise == "lrt"
        with pytest.raises(ValueError, match="noise must be one of 'lrt'"):
            dataclasses.replace(method, noise="weight")


@BY_NAME
def test_first_value_lies_within_the_bounds(method: Method) -> None:
    scale = method.scale
    if scale is not None and scale.bounds is not None:
        low, high = scale.bounds
        assert low <= scale.init <= high


@BY_NAME
def test_method_is_frozen_data(method: Method) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.eval_mode = "sample"  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(method)) == method
    assert hash(type(method)()) == hash(method)
    sampled = dataclasses.replace(method, eval_mode="sample")
    assert sampled != method and sampled.scale == method.scale


def test_scales_of_the_papers() -> None:
    assert SparseVD().scale == ARD().scale == HierarchicalVD().scale
    assert SparseVD().scale.name == "log_sigma2" and SparseVD().scale.init == -10
    assert SparseVD().scale.bounds == (-20, 4)
    assert SparseVD().prune_at == 3  # a dropout rate of alpha / (1 + alpha) > 0.95
    assert HierarchicalVD().kl_prior == ARD().kl_prior == "ard"
    assert HierarchicalVD(parameterisation="log_alpha").scale.name == "log_alpha"
    assert GaussianW(0.25).scale.init == pytest.approx(math.log(1 / 3)) and GaussianW().scale.bounds is None
    assert VariationalB().scale.init == VariationalB().scale.bounds[1] == 0  # alpha <= 1, p <= 1/2
    assert VariationalB().prune_at is None


@pytest.mark.parametrize(
    "granularity, shape", [("layer", (1, 1)), ("input", (1, 5)), ("output", (3, 1)), ("weight", (3, 5))]
)
def test_granularity_shapes_the_parameter(granularity: str, shape: tuple[int, int]) -> None:
    assert VariationalB(granularity).scale.shape((3, 5)) == shape
    kernel = (3, 2) if granularity == "weight" else (1, 1)
    conv = VariationalB(granularity).scale.shape((3, 5, 3, 2), groups=2)
    assert conv == ((2, 5, 1, 1) if granularity == "input" else (*shape, *kernel))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Bernoulli(1.0), ["Bernoulli", "p must", "1.0"]),
        (lambda: Bernoulli(-0.1), ["Bernoulli", "p must", "-0.1"]),
        (lambda: GaussianW(0.0), ["GaussianW", "p must", "0.0"]),
        (lambda: GaussianW("half"), ["GaussianW", "p must", "'half'"]),
        (lambda: VariationalB(p=0.6), ["VariationalB", "p must", "0.5", "0.6"]),
        (lambda: VariationalB("unit"), ["granularity", "'layer'", "'weight'", "'unit'"]),
        (lambda: VariationalB("input", noise="output"), ["noise 'output'", "'layer'"]),
        (lambda: VariationalA("weight"), ["VariationalA", "'input', 'layer'", "'weight'"]),
        (lambda: SparseVD(train_clip=True, noise="input"), ["train_clip", "'lrt'", "'input'"]),
        (lambda: VariationalB(prior="ard"), ["prior", "'log-uniform-kingma'", "'ard'"]),
        (lambda: SparseVD(prior="ard"), ["SparseVD", "prior", "'log-uniform-exact'", "'ard'"]),
        (lambda: SparseVD(init_log_sigma2=5.0), ["init_log_sigma2", "[-20, 4]", "5.0"]),
        (lambda: SparseVD(init_log_sigma2=math.nan), ["init_log_sigma2", "nan"]),
        (lambda: SparseVD(threshold=True), ["threshold", "True"]),
        (lambda: ARD(threshold=99), ["ARD", "threshold", "[-20, 20]", "99"]),
        (lambda: HierarchicalVD(parameterisation="alpha"), ["parameterisation", "'log_alpha'", "'alpha'"]),
        (lambda: HierarchicalVD(init_log_alpha=-21), ["init_log_alpha", "-21"]),
        (lambda: SparseVD(eval_mode="mc"), ["SparseVD", "eval_mode", "MC(K)", "'mc'"]),
        (lambda: MC(0), ["MC", "samples", ">= 1", "0"]),
        (lambda: MC(True), ["MC", "samples", "True"]),
        (lambda: MC(2.0), ["MC", "samples", "2.0"]),
    ],
)
def test_bad_arguments_are_named(make: object, words: list[str]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the words are checked one by one
        make()  # type: ignore[operator]
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_str_shows_what_is_not_default() -> None:
    assert str(SparseVD()) == "SparseVD()"
    assert str(SparseVD(threshold=2.0, eval_mode=MC(3))) == "SparseVD(eval_mode=MC(samples=3), threshold=2.0)"
    assert eval(repr(SparseVD(threshold=2.0))) == SparseVD(threshold=2.0)

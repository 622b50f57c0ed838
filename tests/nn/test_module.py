"""Modules name, count and load their parameters."""

import numpy as np
import pytest

import scratchdiff as sd


class Leaf(sd.nn.Module):
    def __init__(self):
        self.w = sd.Tensor(np.zeros((2, 3)))
        self.size = 7


class Tree(sd.nn.Module):
    def __init__(self):
        self.b = sd.Tensor(np.zeros(5))
        self.leaves = [Leaf(), Leaf()]
        self.last = Leaf()
        self.none = None


def test_parameters_have_dotted_names_in_the_order_they_were_set():
    assert list(Tree().parameters()) == ["b", "leaves.0.w", "leaves.1.w", "last.w"]
    assert Tree().num_parameters() == 5 + 3 * 6


def arrays(tree):
    return {name: np.full(p.shape, 2.0) for name, p in tree.parameters().items()}


def test_load_sets_every_parameter_and_keeps_its_dtype():
    tree = Tree()
    tree.load({name: a.astype(np.float32) for name, a in arrays(tree).items()})
    assert all((p.data == 2).all() and p.dtype == np.float64 for p in tree.parameters().values())


def test_load_makes_every_parameter_contiguous_whatever_the_order_of_the_array():
    tree = Tree()
    tree.load({name: np.asfortranarray(a) for name, a in arrays(tree).items()})
    assert all(p.data.flags.c_contiguous for p in tree.parameters().values())


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda a: a.pop("last.w"), "missing last.w"),
        (lambda a: a.update(other=np.zeros(1)), "unexpected other"),
        (lambda a: a.update(b=np.zeros(4)), r"b has shape \(4,\), not \(5,\)"),
        (lambda a: a["b"].__setitem__(0, np.nan), "b is not finite"),
    ],
)
def test_load_refuses_what_does_not_fit_and_changes_nothing(change, complaint):
    tree = Tree()
    given = arrays(tree)
    change(given)
    with pytest.raises(ValueError, match=f"Tree.load: .*{complaint}"):
        tree.load(given)
    assert all((p.data == 0).all() for p in tree.parameters().values())

import subprocess
import sys

import pytest

from dfkd_bench.datasets.cards import CIFAR10, CIFAR100, DIGITS, TINY_IMAGENET, TINY_IMAGENET_WNIDS

CARDS = [DIGITS, CIFAR10, CIFAR100, TINY_IMAGENET]


def test_the_cards_import_nothing_heavy():
    script = (
        "import sys, dfkd_bench.datasets, dfkd_bench.datasets.cards\n"
        "print([m for m in ('torch', 'sklearn', 'PIL', 'pyarrow', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_and_sizes():
    assert {card.name: (card.num_classes, card.image_shape) for card in CARDS} == {
        "digits": (10, (1, 16, 16)),
        "cifar10": (10, (3, 32, 32)),
        "cifar100": (100, (3, 32, 32)),
        "tiny_imagenet": (200, (3, 64, 64)),
    }


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_class_names_are_distinct_and_clean(card):
    assert len(set(card.class_names)) == card.num_classes
    assert all(name == name.strip() and name for name in card.class_names)


def test_the_order_of_the_labels():
    assert CIFAR10.class_names[3] == "cat"
    assert list(CIFAR100.class_names) == sorted(CIFAR100.class_names)
    assert CIFAR100.class_names[26] == "crab"
    assert list(TINY_IMAGENET_WNIDS) == sorted(set(TINY_IMAGENET_WNIDS))
    assert all(wnid[0] == "n" and len(wnid) == 9 and wnid[1:].isdigit() for wnid in TINY_IMAGENET_WNIDS)
    names = dict(zip(TINY_IMAGENET_WNIDS, TINY_IMAGENET.class_names, strict=True))
    assert names["n01443537"] == "goldfish"
    assert names["n02099601"] == "golden retriever"
    assert names["n12267677"] == "acorn"


def test_normalization_and_transform():
    assert CIFAR10.std == (0.2023, 0.1994, 0.2010)
    assert CIFAR100.mean == (0.5071, 0.4867, 0.4408)
    assert TINY_IMAGENET.mean == TINY_IMAGENET.std == (0.5, 0.5, 0.5)
    assert [(card.transform.padding, card.transform.flip) for card in CARDS] == [
        (2, False),
        (4, True),
        (4, True),
        (4, True),
    ]

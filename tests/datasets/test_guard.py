import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from dfkd_bench.datasets import digits, hub
from dfkd_bench.datasets.folder import open_folder
from dfkd_bench.datasets.guard import check_open, require_no_attempt, sealed
from dfkd_bench.errors import DataFreeViolationError

SENTENCE = r"^synthesizer 'x' tried to open a dataset: a method gets the teacher and the dataset card, never an image; "


def test_a_sealed_block_refuses_and_ends():
    check_open()
    with sealed("synthesizer 'x'"), pytest.raises(DataFreeViolationError, match=SENTENCE):
        check_open()
    check_open()


def test_an_error_in_the_block_unseals_too():
    with pytest.raises(KeyError), sealed("filter 'y'"):
        raise KeyError
    check_open()


def test_the_inner_block_is_named_and_the_outer_stays_sealed():
    with sealed("method 'm'"):
        with sealed("synthesizer 'x'"), pytest.raises(DataFreeViolationError, match=SENTENCE):
            check_open()
        with pytest.raises(DataFreeViolationError, match=r"^method 'm' tried"):
            check_open()


def test_every_thread_is_sealed():
    with (
        sealed("synthesizer 'x'"),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(DataFreeViolationError, match=SENTENCE),
    ):
        pool.submit(check_open).result()


def test_an_attempt_of_which_nobody_heard_is_remembered_until_the_block_ends():
    with sealed("synthesizer 'x'"):
        require_no_attempt()
        thread = threading.Thread(target=quiet, args=(check_open,))
        thread.start()
        thread.join()
        with sealed("filter 'y'"), pytest.raises(DataFreeViolationError, match=SENTENCE):
            require_no_attempt()
    require_no_attempt()
    with sealed("synthesizer 'x'"):
        require_no_attempt()  # it was the other block's


def quiet(what):
    with contextlib.suppress(DataFreeViolationError):
        what()


@pytest.mark.parametrize("load", [digits.load, hub.load_cifar10, hub.load_cifar100, hub.load_tiny_imagenet])
def test_every_loader_asks_the_guard_before_anything_else(load, tmp_path):
    with sealed("synthesizer 'x'"), pytest.raises(DataFreeViolationError, match=SENTENCE):
        load("no such split", tmp_path / "nowhere")


def test_a_folder_asks_the_guard(tmp_path):
    with sealed("synthesizer 'x'"), pytest.raises(DataFreeViolationError, match=SENTENCE):
        open_folder(tmp_path / "nowhere")


def test_a_folder_that_was_opened_before_asks_again(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "test" / name / "0.png")
    _, load = open_folder(tmp_path)
    assert len(load("test", None)) == 2
    with sealed("synthesizer 'x'"), pytest.raises(DataFreeViolationError, match=SENTENCE):
        load("test", None)

"""What every test shares: how many threads torch may take, and where real images are."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import re
import signal
from collections.abc import Iterator
from fnmatch import translate
from pathlib import Path

import pytest
import torch

# Threads times xdist's workers must not exceed the cores; OMP_NUM_THREADS, where set, is already torch's limit.
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_threads = max(1, min(torch.get_num_threads(), _cores // _workers))
torch.set_num_threads(_threads)
os.environ["OMP_NUM_THREADS"] = str(_threads)  # of the processes that tests start

# Triton's programs run in its interpreter where there is no GPU; Triton reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


# What a shell starts in its background ignores Ctrl-C, and so would all that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SLOW = (
    # Each takes seconds; what stays among the fast tests of the same function covers the same code.
    "tests/test_contexts.py::*optimize*",
    "tests/insert/test_places.py::test_networks_of_others[[!<]*]",
    "tests/insert/test_function.py::test_compiled_and_traced*",
    "tests/kernels/test_passes.py::test_every_pass[[]triton-Case(shape=(1,*",
    "tests/kernels/test_passes.py::test_every_pass[[]triton*bfloat16*",
    "tests/kernels/test_passes.py::test_equal_bits_with_any_number_of_threads_and_unchanged_inputs[[]triton-False]",
    "tests/kernels/test_passes.py::test_the_trial_finds*",
    "tests/kernels/test_fuse.py::test_every_family[[]*inception_resnet*",
    "tests/kernels/test_fuse.py::test_every_family[[]senet154*",
    "tests/kernels/test_fuse.py::test_compile_and_export*",
    "tests/kernels/test_block_epilogue.py::test_statistics_over_two_processes*",
    "tests/models/test_costs.py::test_every_network[[]*1[0-9][0-9]*",
    "tests/models/test_costs.py::test_every_network[[]*inception_resnet*",
    "tests/models/test_costs.py::test_fields_and_odd_sizes[[]preresnet1*",
    "tests/models/test_costs.py::test_fields_and_odd_sizes[[]se_inception_resnet*",
    "tests/models/test_every_model.py::*[[]inception_resnet-*",
    "tests/models/test_every_model.py::test_every_other_place_of_a_family[[]inception_resnet_v2-other]",
    "tests/twins/test_twins.py::test_shared_weights_are_equal_bit_for_bit[[]inception_resnet*",
    "tests/insert/test_places.py::test_every_plain_network_of_ours_takes_units[[]inception_resnet]",
    "tests/models/test_every_model.py::*[[]senet154-*",
    "tests/models/test_every_model.py::*[[]shake_bottleneck-*",
    "tests/models/test_network.py::test_compile_in_one_graph*",
    "tests/models/test_against_libraries.py::*",
    "tests/training/test_resume.py::*killed*",
    "tests/training/test_resume.py::test_resumed_run_equals_the_unbroken_one_from_any_batch*",
    "tests/training/test_run.py::test_a_full_disk*",
    "tests/test_examples.py::test_training_and_the_gates*",
    "tests/test_examples.py::test_example[[]*",
    "tests/architecture/test_light_core.py::test_commands_that_need_no_extra[[]('doctor'*",
    "tests/architecture/test_light_core.py::test_a_command_that_needs_the_extra*[[]args[12]]",
    "tests/deploy/test_optimize.py::test_every_family*",
    "tests/deploy/test_onnx.py::test_units_of_every_kind_on_this_machine[[]net[12]*",
    "tests/deploy/test_program.py::test_as_it_is*",
    "tests/deploy/test_fuse_epilogues.py::test_ends*",
    "tests/cli/test_measure.py::test_a_class_with_a_comma_is_drawn",
    "tests/cli/test_analyze.py::test_a_checkpoint_on_its_own_data*",
    "tests/cli/test_convert.py::test_timm_to_a_checkpoint_and_back*",
    "tests/cli/test_convert.py::test_force*",
    "tests/kernels/test_passes.py::test_compiled_for_a_gpu*",
    "tests/kernels/test_conv1x1_operation.py::test_the_kernel_compiles_for_hopper*",
    "tests/models/test_fx.py::*inception_resnet*",
    "tests/models/test_inception_resnet.py::test_slim_is_timms",
    "tests/models/test_inception_resnet.py::test_stage_maps*",
    "tests/models/test_network.py::test_any_channels_any_classes_any_size[[]inception_resnet]",
    "tests/training/test_resume.py::test_resumes_bit_for_bit_with_worker_processes*",
    "tests/training/test_run.py::test_compiled*",
    "tests/weights/test_timm.py::test_a_full_network_is_identified*",
    "tests/architecture/test_light_core.py::test_commands_that_need_no_extra[[]('models'*",
    "senet/weights/identify.py::*",
    "tests/analysis/test_ablate.py::test_off_and_mean_are_networks_changed_by_hand[[]timm's]",
    "tests/analysis/test_collect.py::test_memory_does_not_grow_with_the_images",
    # A server and a browser; what draws the page is called by the tests beside them.
    *(
        f"tests/app/test_page.py::test_{name}*"
        for name in ("axe", "by_keyboard", "it_opens", "on_a_phone", "see_switch")
    ),
    "tests/architecture/test_import_cost.py::test_create_model_loads_torch_alone",
    "tests/cli/test_bench.py::test_networks_of_others[[]inference-timm*",
    "tests/cli/test_anyone.py::test_a_network_compared_with_itself",
    "tests/cli/test_convert.py::test_mistakes_write_nothing[[]words[79]*",
    "tests/cli/test_export.py::test_training_images_calibrate",
    "tests/cli/test_places.py::test_an_experiment_whose_images_were_moved",
    "tests/cli/test_reproduce.py::test_no_result_is_replaced*",
    "tests/deploy/test_onnx.py::test_a_file_that_is_another_function_is_not_written",
    "tests/deploy/test_optimize.py::test_compiled_without_a_c_compiler",
    "tests/detection/test_training.py::test_a_comparison_with_itself*",
    "tests/training/test_fine_tuning.py::test_weights_of_another_network_are_named[[]*-tensors*",
    "tests/architecture/test_light_core.py::test_the_core_needs_no_extra",
    "tests/architecture/test_light_core.py::test_a_command_that_needs_the_extra*",
    "tests/cli/test_reproduce.py::test_ours_beside_the_papers_and_again",
    "tests/cli/test_convert.py::test_what_a_file_cannot_tell_must_be_said",
    "tests/cli/test_convert.py::test_caffe_to_a_checkpoint_that_predicts",
    "tests/deploy/test_onnx.py::test_units_of_every_kind_on_this_machine[[]net0-3]",
    "tests/deploy/test_optimize.py::test_rounding_in_float32",
    "tests/deploy/test_outputs.py::test_objects_as_outputs[[]data*",
    "tests/deploy/test_outputs.py::test_objects_as_outputs[[]object*",
    "tests/deploy/test_int8.py::test_optimized_in_8_bits[[]openvino]",
    "tests/detection/test_build.py::test_protocol_torchvision_is_torchvisions_own[[]maskrcnn]",
    "tests/cli/test_bench.py::test_others_networks_take_our_weights[[]*1[05][12]*",
    "tests/models/test_costs.py::test_every_network[[]*resne?t*_64x4d]",
    "tests/models/test_costs.py::test_every_network[[]*preresnet164]",
    "tests/models/test_inception_resnet.py::test_every_parameter_learns_and_every_unit_runs_once*",
    "tests/weights/test_cifar.py::test_logits_are_the_same[[]akamaster-linear-None-zero_pad_both]",
    "tests/training/test_fine_tuning.py::test_each_field_resumes_bit_for_bit_and_is_fair_to_twins[[]randaugment]",
    "tests/training/test_real_images.py::test_se_resnet20_trains_on_cifar10",
)
"""Tests that are marked `slow` here, one by one of a parametrized function: patterns of their ids."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `SLOW` names."""
    slow = re.compile("|".join(map(translate, SLOW)))
    for item in items:
        if slow.match(item.nodeid):
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what only a GPU can test where there is none."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True, scope="module")
def memory() -> Iterator[None]:
    """What a file's tests freed goes back to the system: glibc kept 2 GB in each worker after the largest networks."""
    yield
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True, scope="module")
def devices() -> Iterator[None]:
    """No file's tests leave a torch behind that no longer makes tensors where `with torch.device(...)` says."""
    yield
    with torch.device("meta"):
        assert torch.empty(0).is_meta
        assert torch.zeros(0).is_meta


@pytest.fixture
def real_images() -> Path:
    """The folder that SENET_TEST_DATA names, with `cifar10/` and `imagenette/` in it; the test is skipped without."""
    folder = os.environ.get("SENET_TEST_DATA", "")
    if not folder:
        pytest.skip("SENET_TEST_DATA is not set: it names a folder with cifar10/ and imagenette/")
    path = Path(folder)
    missing = [name for name in ("cifar10", "imagenette") if not (path / name).is_dir()]
    if missing:
        pytest.skip(f"SENET_TEST_DATA={folder} has no {' and no '.join(missing)}")
    return path

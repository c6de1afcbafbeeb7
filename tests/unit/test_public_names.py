"""What the package promises by name. A name that goes is a breaking change."""

import os
import subprocess
import sys

import pytest

import mixbct

PUBLIC = """
ADAPTERS EmbeddingModel FeatureBank Gallery METHODS MixbctError __version__ denoise edge_from
embed_source evaluate_models extract judge load_model load_recipe make_split open_rows open_source
train
"""
VARIABLE = "OPENBLAS_THREAD_TIMEOUT"


def test_the_public_names_are_these() -> None:
    assert sorted(mixbct.__all__) == PUBLIC.split()


@pytest.mark.parametrize("name", PUBLIC.split())
def test_every_public_name_is_there_and_documented(name: str) -> None:
    thing = getattr(mixbct, name)
    assert isinstance(thing, str | dict) or thing.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mixbct.nothing  # noqa: B018


def test_importing_the_package_alone_is_light() -> None:
    code = "import sys, mixbct; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(("asked", "kept"), [({}, "4"), ({VARIABLE: "20"}, "20")])
def test_numpy_is_told_not_to_wait_before_it_is_loaded(asked: dict[str, str], kept: str) -> None:
    """Its threads, awake after a product, took a sixth of a training step and more."""
    code = f"import sys, mixbct, os; print('numpy' in sys.modules, os.environ[{VARIABLE!r}])"
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE} | asked
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["False", kept]

"""What the package promises by name. A name that goes is a breaking change."""

import subprocess
import sys

import pytest

import mixbct

PUBLIC = """
ADAPTERS EmbeddingModel FeatureBank Gallery METHODS MixbctError __version__ denoise edge_from
embed_source evaluate_models extract judge load_model load_recipe make_split open_rows open_source
train
"""


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

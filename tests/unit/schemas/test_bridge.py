import json
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from mixbct.errors import ContractError, ModelError
from mixbct.schemas.bridge import Bridge, load_bridge, without_numbers
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

NEW = Contract(name="new", weights="declared: new", preprocessing=None, dim=6)
OLD = Contract(name="old", weights="declared: old", preprocessing=None, dim=4)
SAME = Contract(name="same", weights="declared: same", preprocessing=None, dim=6)
RNG = np.random.default_rng(0)


def side(d: int, e: int) -> LinearMap:
    return LinearMap.of(RNG.standard_normal((d, e)), RNG.standard_normal(e))


def test_it_says_what_it_does_to_which_side() -> None:
    sides = {
        (side(6, 4), None): "queries go through a map of 6 to 4 dimensions (k)",
        (None, side(4, 6)): "stored rows go through a map of 4 to 6 dimensions (k)",
        (side(6, 3), side(4, 3)): "queries go through a map of 6 to 3 dimensions and stored rows",
    }
    for (query, gallery), says in sides.items():
        bridge = Bridge(kind="k", source=NEW, target=OLD, query=query, gallery=gallery)
        assert str(bridge).startswith(says)
        again = Bridge.model_validate_json(bridge.to_json())
        assert again == bridge
        assert again.digest() == bridge.digest()
    plain = Bridge(kind="identity", source=NEW, target=SAME)
    assert str(plain) == "both sides stay as they are (identity)"


@pytest.mark.parametrize(
    ("query", "gallery", "says"),
    [
        (None, None, "queries reach 6 dimensions and stored rows 4"),
        (side(6, 5), None, "queries reach 5 dimensions and stored rows 4"),
        (side(4, 4), None, "map of queries takes 4 dimensions, but new .* has 6"),
        (side(6, 3), side(6, 3), "map of stored rows takes 6 dimensions, but old .* has 4"),
    ],
)
def test_sides_that_do_not_meet_are_refused(
    query: LinearMap | None, gallery: LinearMap | None, says: str
) -> None:
    with pytest.raises(ValidationError, match=says):
        Bridge(kind="k", source=NEW, target=OLD, query=query, gallery=gallery)


def test_it_leads_one_way() -> None:
    bridge = Bridge(kind="k", source=NEW, target=SAME)
    bridge.check(NEW, SAME)
    # a name is not part of a contract
    bridge.check(NEW.model_copy(update={"name": "renamed"}), SAME)
    with pytest.raises(ContractError, match=r"the wrong way round.*adapt --from.*of same .*of new"):
        bridge.check(SAME, NEW)
    for pair in ((NEW, OLD), (OLD, SAME), (NEW, NEW)):
        with pytest.raises(ContractError, match="for other models"):
            bridge.check(*pair)


def test_what_people_read_has_no_numbers() -> None:
    bridge = Bridge(kind="k", source=NEW, target=OLD, query=side(6, 4))
    content = json.loads(without_numbers(bridge))
    assert content["query"] == {
        "source_dim": 6, "target_dim": 4, "digest": bridge.query.digest,
    }  # fmt: skip
    assert content["gallery"] is None
    assert content["source"]["name"] == "new"


def test_no_damage_of_a_file_is_a_fault(tmp_path: Path) -> None:
    """Flipped, cut, doubled and swapped bytes: read as it was, or a named error of one line."""
    bridge = Bridge(kind="k", source=NEW, target=OLD, query=side(6, 3), gallery=side(4, 3))
    whole, path = bridge.to_json().encode(), tmp_path / "bridge.json"
    rng, refused = np.random.default_rng(0), []
    for _ in range(400):
        content, at = bytearray(whole), int(rng.integers(len(whole)))
        match rng.integers(5):
            case 0:
                content[at] ^= 1 << int(rng.integers(8))
            case 1:
                del content[at:]
            case 2:
                content[at:at] = content[at : at + 40]
            case 3:
                content[at] = int(rng.choice(list(b'0"{}[],:e-')))
            case _:
                content[at : at + 1] = rng.choice([b"1e999", b"NaN", b"null", b"[" * 9999])
        path.write_bytes(content)
        try:
            found = load_bridge(path)
        except ModelError as error:
            refused.append(str(error))
            continue
        # what holds numbers has a digest: they are the same or the file is refused
        assert (found.query, found.gallery) == (bridge.query, bridge.gallery)
    assert len(refused) > 300
    assert not any("\n" in says for says in refused)

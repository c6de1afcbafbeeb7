"""What is made of stored rows in order to search them, and can be thrown away."""

import secrets
from typing import TYPE_CHECKING

from mixbct.features.bridged import through
from mixbct.gallery.postgres import tables
from mixbct.gallery.postgres.search import Derived, derived
from mixbct.gallery.records import Tick
from mixbct.gallery.snapshot import BLOCK
from mixbct.gallery.transaction import Transaction
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

if TYPE_CHECKING:
    from mixbct.gallery.postgres.database import Postgres


def derive(
    postgres: "Postgres",
    to: Transaction,
    contract: Contract,
    side: LinearMap | None,
    progress: Tick | None,
) -> bool:
    """Make what a search through a side needs, or some thousand rows more of it.

    Returns:
        Whether all is there.
    """
    milvus, known = postgres.milvus(to), to.record(contract)
    made = derived(to, known, side)
    if milvus and made and milvus.count(made.name) != made.rows:
        forget(postgres, to, made)  # in doubt, all of it is made again
        made = None
    if milvus is None and side is None:
        return True
    [(newest,)] = to.do("SELECT last_id FROM gallery")
    if made is None:
        dim = side.target_dim if side else contract.dim
        name = f"{'mixbct' if milvus else 'mapped'}_{secrets.token_hex(6)}"
        if milvus:
            milvus.create(name, dim)
        else:
            tables.create_table(to.connection, name, dim)
        to.do(
            "INSERT INTO derived VALUES (%s, %s, %s, %s, 0, %s, 0)",
            *(name, known.number, side.digest if side else ""),
            *(side.model_dump_json() if side else None, newest),
        )
        to.changing()
        return False
    last = newest if milvus else made.last
    if made.filled >= last:
        if not milvus or made.rows - known.rows <= 1000 + known.rows // 8:
            return True
        forget(postgres, to, made)
        return False
    block = next(to.blocks(contract, made.filled, last), None)
    filled, count = last, 0
    if block:
        mapped, count = through(side, block.vectors, block.keys), len(block.ids)
        filled = last if count < BLOCK else int(block.ids[-1])
        if milvus:
            milvus.add(made.name, block.ids, mapped)
        else:
            postgres.add_vectors(to.connection, made.name, [(block.ids, mapped)])
    if filled >= last and side and not milvus:
        tables.index(to.connection, made.name, side.target_dim, to.facts.searched_by)
    to.do(
        "UPDATE derived SET filled = %s, last = %s, rows = rows + %s WHERE name = %s",
        *(filled, last, count, made.name),
    )
    to.changing()
    if progress:
        progress(made.rows + count, max(known.rows, made.rows + count))
    return False


def forget(postgres: "Postgres", to: Transaction, made: Derived) -> None:
    """Throw away what is made; a table goes once nobody reads it (`Postgres.sweep`)."""
    to.do("DELETE FROM derived WHERE name = %s", made.name)
    if not made.is_table and (milvus := postgres.milvus(to)):
        milvus.drop(made.name)  # who searches it compares the stored rows instead
    to.changing()

"""What is made of stored rows in order to search them, and can be thrown away."""

import secrets
from typing import TYPE_CHECKING

from mixbct.features.bridged import through
from mixbct.gallery.postgres import tables
from mixbct.gallery.postgres.search import HNSW, indexed
from mixbct.gallery.postgres.snapshot import BLOCK, Derived
from mixbct.gallery.store import Tick
from mixbct.schemas.contract import Contract
from mixbct.schemas.linear_map import LinearMap

if TYPE_CHECKING:
    from mixbct.gallery.postgres.transaction import Transaction


def derive(
    to: "Transaction", contract: Contract, side: LinearMap | None, progress: Tick | None
) -> bool:
    """Make what a search through a side needs, or some thousand rows more of it.

    Returns:
        Whether all is there.
    """
    milvus, known = to.milvus, to.derived(contract, side)
    if milvus and known and milvus.count(known.name) != known.rows:
        forget(to, known)  # in doubt, all of it is made again
        known = None
    if milvus is None and side is None:
        return True
    if known is None:
        dim = side.target_dim if side else contract.dim
        name = f"{'mixbct' if milvus else 'mapped'}_{secrets.token_hex(6)}"
        if milvus:
            milvus.create(name, dim)
        else:
            tables.create_vectors(to.connection, name, dim)
        to.do(
            "INSERT INTO derived VALUES (%s, %s, %s, %s, 0, %s, 0)",
            *(name, to.record(contract), side.digest if side else ""),
            *(side.model_dump_json() if side else None, to.facts.last_id),
        )
        to.changing()
        return False
    last = to.facts.last_id if milvus else known.last
    rows = to.facts.contracts[contract.id][2]
    if known.filled >= last:
        stored = to.do(f"SELECT count(*) FROM vectors_{to.number(contract)}") if milvus else []
        if not stored or known.rows - stored[0][0] <= 1000 + rows // 8:
            return True
        forget(to, known)
        return False
    block = next(to.some_blocks(contract, known.filled, last), None)
    filled, count = last, 0
    if block:
        mapped, count = through(side, block.vectors, block.keys), len(block.ids)
        filled = last if count < BLOCK else int(block.ids[-1])
        if milvus:
            milvus.add(known.name, block.ids, mapped)
        else:
            to.copy_vectors(known.name, [(block.ids, mapped)])
    if filled >= last and side and not milvus:
        index(to, known.name, side.target_dim)
    to.do(
        "UPDATE derived SET filled = %s, last = %s, rows = rows + %s WHERE name = %s",
        *(filled, last, count, known.name),
    )
    to.changing()
    if progress:
        progress(known.rows + count, max(rows, known.rows + count))
    return False


def forget(to: "Transaction", known: Derived) -> None:
    """Throw away what is made; a table goes once nobody reads it (`PostgresStore.sweep`)."""
    to.do("DELETE FROM derived WHERE name = %s", known.name)
    if to.milvus and not known.name.startswith("mapped_"):
        to.milvus.drop(known.name)  # who searches it compares the stored rows instead
    to.changing()


def index(to: "Transaction", table: str, dim: int) -> None:
    """Build the HNSW index of a table, or take it away, as the gallery is searched."""
    if to.facts.searched_by == HNSW:
        expression, kind = indexed(dim)[0], "halfvec" if dim > 2000 else "vector"
        to.do(
            f"CREATE INDEX IF NOT EXISTS {table}_hnsw ON {table} "
            f"USING hnsw ({expression} {kind}_ip_ops)"
        )
    else:
        to.do(f"DROP INDEX IF EXISTS {table}_hnsw")


def reindex(to: "Transaction", searched_by: str) -> None:
    """Search in another way from now on: by EXACT, HNSW or a place of Milvus."""
    for known in list(to.facts.derived.values()):
        if to.milvus:
            forget(to, known)
    to.do("UPDATE gallery SET index = %s", searched_by)
    to.changing()
    for number, contract, _ in to.facts.contracts.values():
        index(to, f"vectors_{number}", contract.dim)
    for name, dim in to.do("SELECT name, (json::json->>'target_dim')::int FROM derived"):
        index(to, name, dim)

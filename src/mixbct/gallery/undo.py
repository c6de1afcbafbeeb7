"""The undoing of a switch: a new one that restores what was before it."""

from collections.abc import Sequence

from mixbct.errors import ContractError, SwitchedError
from mixbct.gallery.records import Rollback, Switch
from mixbct.gallery.rules import check_edge, led_back, untied
from mixbct.gallery.transaction import Transaction
from mixbct.schemas.gate import Edge
from mixbct.schemas.record import now


def undo(
    transaction: Transaction,
    edges: Sequence[Edge],
    leave_out: bool,
    place: str,
    seen: int | None = None,
) -> Rollback:
    """Undo the last switch that is not undone; see `Gallery.rollback`."""
    switches = transaction.switches()
    last, back = switches[-1], led_back(switches, place)
    if seen not in (None, last.number):
        raise SwitchedError(
            f"switch {last.number} came since, at {last.time}: look at what it changed, and ask "
            "again"
        )
    query = back.model.contract
    given_back, damaged = transaction.restore(last.stands_for, keep=query)
    for edge in edges:
        check_edge(edge, query)
        transaction.add_edge(edge)
    lost = [
        key
        for stored in untied(transaction, query)
        for block in transaction.blocks(stored.contract)
        for key in block.keys
    ]
    if lost and not leave_out:
        raise ContractError(
            f"{len(lost)} items that came since {last.time} cannot be searched by {query} "
            f"({', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}): enrol them with it "
            "(--replace), give the edge of `mixbct gate` on it against their model "
            "(--edge), or leave them out (--leave-out)"
        )
    transaction.remove(lost)
    number, restores = last.number + 1, back.stands_for
    transaction.switch(Switch(number, back.model, now(), back.before, restores))
    return Rollback(
        gallery=place,
        query_model=query,
        before=last.model.contract,
        given_back=len(given_back),
        left_out=tuple(lost),
        damaged=tuple(damaged),
    )
